"""Probes measure statistics on calibration data for unit criteria: one probe is one kind of pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from prunus.criteria.unit_criterion import CriterionLike, UnitEvidence, needs_of
from prunus.data.calibration import LossFunction
from prunus.errors import OptionError
from prunus.foundation.registry import Registry
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors

Statistics = dict[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The inputs of a probe.

    Attributes:
        model: the network; probes leave it as found.
        coupling: the coupling of its graph.
        batches: pairs (inputs, targets), or inputs alone where a probe needs no labels; iterated once.
        loss: (outputs, targets) → one number, averaging over the batch.
        seed: seed of probes that draw numbers.
    """

    model: nn.Module
    coupling: Coupling
    batches: Iterable[Any]
    loss: LossFunction
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """One pass over calibration data.

    Attributes:
        name: name of the pass.
        gives: names of the statistics that it measures.
        collect: calibration → statistic → axis id or tensor name → values.
        labels: it needs targets.
        backward: it needs gradients.
        program: it runs the captured program; a model captured in parts has none.
    """

    name: str
    gives: tuple[str, ...]
    collect: Callable[[Calibration], Statistics]
    labels: bool = False
    backward: bool = False
    program: bool = True


PROBES: Registry[Probe] = Registry("probe")


def probe(
    name: str, gives: tuple[str, ...], *, labels: bool = False, backward: bool = False, program: bool = True
) -> Callable[[Callable[[Calibration], Statistics]], Callable[[Calibration], Statistics]]:
    """Enrol a function as a probe; arguments as in `Probe`."""

    def enrol(collect: Callable[[Calibration], Statistics]) -> Callable[[Calibration], Statistics]:
        PROBES.register(name)(Probe(name, gives, collect, labels, backward, program))
        return collect

    return enrol


def probes_for(criterion: CriterionLike) -> tuple[Probe, ...]:
    """Return the probes that a unit criterion needs, each once; none if it reads weights alone.

    Raises:
        OptionError: an unknown criterion, or one that needs a statistic of no probe.
    """
    chosen: dict[str, Probe] = {}
    for statistic in needs_of(criterion):
        giver = next((p for p in map(PROBES.get, PROBES) if statistic in p.gives), None)
        if giver is None:
            raise OptionError(
                f"criterion {criterion!r} reads {statistic!r}, which no pass over data gives: it needs a running "
                "training. Use it with the Pruner, or another criterion."
            )
        chosen[giver.name] = giver
    return tuple(chosen.values())


def collect_evidence(
    criterion: CriterionLike,
    calibration: Calibration,
    remember: Callable[[str, Callable[[], Any]], Any] | None = None,
) -> UnitEvidence:
    """Measure the statistics that a unit criterion needs, and no others.

    Args:
        criterion: its name, a rule, or a plain function, which reads weights alone.
        calibration: model, coupling, data and loss.
        remember: (name, make) → the stored result of this name, or that of ``make``, which is then stored.

    Raises:
        OptionError: an unknown criterion, or statistics that need a running training.
        DataError: no batches, labels that are missing, or numbers that are not finite.
    """
    more: Statistics = {}
    for needed in probes_for(criterion):
        measure = partial(needed.collect, calibration)
        more.update(remember(f"probe:{needed.name}", measure) if remember else measure())
    weights = {n: t.detach() for n, t in named_tensors(calibration.model).items() if isinstance(t, nn.Parameter)}
    return UnitEvidence(calibration.coupling, weights, seed=calibration.seed, more=more)
