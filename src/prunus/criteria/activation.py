"""Statistics of units on calibration data: the energy of their outputs and the slope of the loss in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.criteria.probes import Calibration, Statistics, probe
from prunus.criteria.producers_consumers import find_places
from prunus.criteria.unit_sums import Reads, UnitSums
from prunus.data.calibration import LossFunction, Progress, evaluating, inputs_of, loss_on, pairs
from prunus.data.programs import Programs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import run
from prunus.graph.ir import Node, Ref


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """Statistics of the outputs of units: axis id → one float64 number a unit.

    Attributes:
        contribution: E[a_u²], the mean over samples and over all positions in which a consumer reads the unit.
        mean_abs: E|a_u|, the same mean.
        active: the share of a_u ≠ 0 among the same values.
        sensitivity: E[Σ_positions (∂L/∂a_u)²], the mean over samples; None without a loss.
        samples: how many samples were seen.
    """

    contribution: Mapping[str, Tensor]
    mean_abs: Mapping[str, Tensor]
    active: Mapping[str, Tensor]
    sensitivity: Mapping[str, Tensor] | None
    samples: int


def activation_statistics(
    model: nn.Module,
    coupling: Coupling,
    batches: Iterable[Any],
    loss_fn: LossFunction | None = None,
    *,
    progress: Progress | None = None,
) -> ActivationStatistics:
    """Measure the output a_u of every removable unit where its consumers read it, behind norm and activation.

    contribution_u = mean of a_u²; sensitivity_u = (1/N) Σ_samples Σ_positions (∂ℓ/∂a_u)², ℓ the loss of one sample.
    ``loss_fn`` must average over a batch; with one that sums, multiply by 1/batch size². Where several consumers read a
    unit in different values, the sums over these values add up. The model runs in eval mode, in which samples do not
    mix, so the gradients are per-sample ones. A batch of another shape than the captured example is captured anew.

    Args:
        model: the network that was captured; it is left as found.
        coupling: the coupling of its graph.
        batches: pairs (inputs, targets), or without a loss inputs alone; inputs as for
            `prunus.graph.capture.capture`; the first input tensor has the samples on dim 0.
        loss_fn: (outputs, targets) → one number; without it only contributions are measured.
        progress: called with (batches done, batches in all or 0 where unknown).

    Raises:
        DataError: no batches, a batch that is no pair, one that takes another program than the captured one,
            or a statistic that is NaN or infinite; the axis is named.
        OptionError, ModelError: the loss is no single number, or carries no gradient.
    """
    programs, sums = Programs(model, coupling), UnitSums(coupling)
    reads: dict[int, Reads] = {}
    walk = pairs if loss_fn is not None else inputs_of
    with evaluating(programs.model):
        for inputs, targets in walk(batches, programs.device, progress):
            local, flat = programs.of(inputs)
            if id(local) not in reads:
                reads[id(local)] = find_places(local).reads
            _measure(sums, local, reads[id(local)], programs.tensors, flat, targets, loss_fn)
    means = sums.means()
    slope = means.pop("sensitivity")
    return ActivationStatistics(sensitivity=slope if loss_fn is not None else None, samples=sums.samples, **means)


@probe("activations", ("contribution", "mean_abs", "active"))
def _activations(calibration: Calibration) -> Statistics:
    statistics = activation_statistics(calibration.model, calibration.coupling, calibration.batches)
    return {"contribution": statistics.contribution, "mean_abs": statistics.mean_abs, "active": statistics.active}


@probe("slopes", ("sensitivity",), labels=True, backward=True)
def _slopes(calibration: Calibration) -> Statistics:
    statistics = activation_statistics(calibration.model, calibration.coupling, calibration.batches, calibration.loss)
    assert statistics.sensitivity is not None
    return {"sensitivity": statistics.sensitivity}


def _measure(
    sums: UnitSums,
    coupling: Coupling,
    reads: Reads,
    tensors: Mapping[str, Tensor],
    inputs: list[Tensor],
    targets: Any,
    loss_fn: LossFunction | None,
) -> None:
    watched = {ref for refs in reads.values() for ref in refs}
    found: dict[Ref, Tensor] = {}

    def observe(node: Node, result: Any) -> None:
        for ref in wanted_at.get(node.name, ()):
            found[ref] = result[ref.index] if isinstance(result, (tuple, list)) else result
            sums.add_energy(coupling, reads, ref, found[ref])

    wanted_at: dict[str, list[Ref]] = {}
    for ref in watched:
        wanted_at.setdefault(ref.node, []).append(ref)
    with torch.set_grad_enabled(loss_fn is not None):
        outputs = run(coupling.graph, tensors, inputs, observe=observe)
        batch = inputs[0].shape[0]
        sums.samples += batch
        if loss_fn is None:
            return
        refs = [ref for ref, value in found.items() if value.requires_grad]
        loss = loss_on(loss_fn, outputs, targets)
        grads = torch.autograd.grad(loss, [found[ref] for ref in refs], allow_unused=True)
    for ref, grad in zip(refs, grads, strict=True):
        if grad is not None:
            # The mean over the batch divided every sample's gradient by its size.
            sums.add_slope(coupling, reads, ref, grad * batch)
