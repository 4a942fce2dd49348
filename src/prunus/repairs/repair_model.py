"""`repair_`: try repairs, judge them on samples that none of them saw, keep the best, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunus.data.batches import device_of
from prunus.data.programs import names_of
from prunus.errors import DataError, OptionError, UsageError, nearest
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.progress import Progress, Silent
from prunus.graph.call_form import CallForm
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import refs_in
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.repairs.blocks import Tuning
from prunus.repairs.choose_repairs import AUTO, Effort, candidates
from prunus.repairs.matching import matched
from prunus.repairs.memory_fit import ROOM, samples_that_fit
from prunus.repairs.mixup import COPIES, with_blends
from prunus.repairs.repairs import REPAIRS, Mending, Repair
from prunus.repairs.report import RepairReport
from prunus.repairs.rnn_cells import tensors_of
from prunus.repairs.samples import LEAST, MOST, lanes_of
from prunus.repairs.walking import Route, Walk, Walked, route

NONE = "none"
_NOTHING = 1e-12


def check_repair(name: str | None) -> None:
    """Refuse a name that is no repair.

    Raises: OptionError: not one of ``auto``, ``none`` or the registered repairs.
    """
    if name is not None and not (isinstance(name, str) and (name in (AUTO, NONE) or name in REPAIRS)):
        allowed = (AUTO, NONE, *REPAIRS.names())
        raise OptionError(f"repair {name!r} is unknown.{nearest(str(name), allowed)} Allowed: {', '.join(allowed)}.")


@in_ordinary_mode
def repair_(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    data: Any,
    *,
    repair: str = AUTO,
    seed: int = 0,
    progress: Progress | None = None,
) -> RepairReport:
    """Bring a cut network closer to the dense one: no labels, no training, weights changed in place.

    Part of the samples is held out. A repair that does not bring the network's outputs closer to the dense network's on
    those is taken back, and the report says so: the network is never left worse than it came.

    Args:
        model: the dense network; untouched.
        small: what `cut` made of ``model``; its parameters and norm statistics change.
        coupling: its analysis.
        plan: what went. Weights that its masks hold at zero stay zero.
        data: calibration batches: inputs, (inputs,) or (inputs, targets); targets are not looked at.
        repair: ``auto``, or ``statistics``, ``bias``, ``scales``, ``refold``, ``blockwise``, ``matching``, ``none``.
        seed: of the rows drawn from large layers, and of the samples drawn and blended where a repair trains.
        progress: told of the steps of ``matching``, the only one that takes long.

    Raises:
        OptionError: an unknown repair.
        DataError: no batches, NaN, batches that do not go through the model, or fewer than 4 samples for a repair that
            was named;
        ModelError: the model draws random numbers in eval mode.
            Where ``auto`` meets batches that do not go through, too few samples or such a model, it leaves the network
            as it is and says so; empty data and NaN it refuses too.

    Example:
        ``report = prunus.repair_(model, small, coupling, plan, batches); print(report)``
    """
    check_repair(repair)
    if repair == NONE:
        return RepairReport(NONE, repair, 0)
    own = {name: tensor.detach() for name, tensor in named_tensors(unwrap(small)).items()}
    room = samples_that_fit(coupling)
    most = min(MOST, room)
    calls = CallForm.of_graph(coupling.graph)
    lanes = lanes_of(data, device_of(model), names=names_of(model, coupling.graph), calls=calls, most=most)
    samples = sum(lane.count for lane in lanes)
    try:
        _check_enough(samples, len(lanes), most)
        way = route(model, coupling, plan, lanes, small=own, seed=seed)
    except UsageError as error:
        if repair != AUTO:
            raise
        return RepairReport(NONE, repair, samples, notes=(f"not repaired: {error}",))
    chosen, effort, notes = candidates(repair, way, plan, max(0, min(COPIES, room // samples - 1)))
    best = _best(way, chosen, effort, progress or Silent())
    _write_(small, best, way)
    return RepairReport(
        best.name,
        repair,
        samples,
        best.before,
        best.after,
        best.tried,
        tuple(best.layers),
        (*notes, *best.notes, *_cramped(samples, most), *_left_alone(way)),
    )


def _check_enough(samples: int, lanes: int, most: int) -> None:
    if samples >= LEAST and lanes > 1:
        return
    if most < LEAST:
        raise DataError(
            f"{LEAST} calibration samples, which a repair needs, would take more than {ROOM >> 30} GiB. Give smaller "
            "ones: shorter sequences, pictures of a lower resolution."
        )
    raise DataError(
        f"a repair got {samples} calibration samples in {lanes} parts; it needs at least {LEAST} in 2, some to fit and "
        "some to judge. Give more data."
    )


@dataclass(frozen=True, slots=True)
class _Best:
    name: str
    walked: Walked | None
    before: float
    after: float
    tried: Mapping[str, float]
    layers: Sequence[Any] = ()
    notes: tuple[str, ...] = ()


def _best(way: Route, repairs: list[Repair], effort: Effort, progress: Progress) -> _Best:
    before = Walk(way, absorb=False).errors_as_it_is()["held"]
    if not _answers(way):
        return _Best(NONE, None, before, before, {}, notes=("not repaired: no output is of floating-point numbers",))
    if before < _NOTHING:
        return _Best(NONE, None, before, before, {}, notes=("the outputs are those of the dense network",))
    tried: dict[str, float] = {}
    best = _Best(NONE, None, before, before, tried)
    for repair in repairs:
        mending = Mending(repair, way)
        walked = _carried_out(way, mending, effort, progress)
        after = walked.errors["held"]
        tried[repair.name] = after
        if after < best.after:
            best = _Best(repair.name, walked, before, after, tried, mending.layers)
    if best.walked is None:
        told = ", ".join(f"{name} {error:.2%}" for name, error in tried.items())
        return _Best(NONE, None, before, before, tried, notes=(f"taken back, for it did not help: {told}",))
    return best


def _answers(way: Route) -> bool:
    """Whether the network has an output that can be compared."""
    graph = way.programs.first.dense
    metas = [graph.meta(ref) for ref in refs_in(list(graph.outputs))]
    return any(meta.dtype.is_floating_point for meta in metas)


def _carried_out(way: Route, mending: Mending, effort: Effort, progress: Progress) -> Walked:
    repair = mending.repair
    if not repair.tunes:
        return Walk(way, absorb=repair.absorb, layers=repair.layer is not None).run(mending)
    blends = with_blends(way, effort.copies)
    if not repair.matches:
        return Tuning(blends, mending).run()
    walk = Tuning(blends, mending, last_steps=0).walked()
    walk.replace(matched(way, walk.tensors, mending.masks, effort.steps, progress))
    errors = Walk(replace(way, small=walk.tensors), absorb=False).errors_as_it_is()
    return Walked(walk.tensors, frozenset(walk.changed), errors)


@torch.no_grad()
def _write_(small: nn.Module, best: _Best, way: Route) -> None:
    if best.walked is None:
        return
    own = named_tensors(unwrap(small))
    for name in best.walked.changed:
        own[name].copy_(best.walked.tensors[name])


def _cramped(samples: int, most: int) -> tuple[str, ...]:
    if samples < most or most >= MOST:
        return ()
    return (f"more than {most} samples would take more than {ROOM >> 30} GiB",)


def _left_alone(way: Route) -> tuple[str, ...]:
    """Name the weights of layers that are no site, such as tied ones."""
    graph = way.programs.first.small
    sites = {name for place in way.sites.values() for name in tensors_of(place)}
    left = [
        name
        for name, info in graph.tensors.items()
        if info.kind == "parameter" and len(info.shape) > 1 and name not in sites
    ]
    if not left:
        return ()
    shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    return (f"{len(left)} tensors are not refitted (read more than once, or not a layer's): {shown}",)
