"""Collect what units do on calibration data: the energy of their outputs and how the loss depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.criteria.calibration import LossFunction, Progress, checked_loss, evaluating, pairs
from prunus.criteria.places import find_places
from prunus.criteria.unit_sums import Reads, UnitSums
from prunus.errors import DataError
from prunus.graph.capture import capture, split_inputs, unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.graph.ir import Node, Ref
from prunus.graph.run import flat_inputs, run


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """Per axis id, one float64 number a unit.

    Attributes:
        contribution: E[a_u²], the mean over samples and over all places where the unit is read.
        sensitivity: E[Σ_positions (∂L/∂a_u)²], the mean over samples; None without a loss.
        samples: how many samples were seen.
    """

    contribution: Mapping[str, Tensor]
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
    ``loss_fn`` is taken to average over a batch; with one that sums, multiply by 1/batch size². A unit that several
    consumers read in different values adds up over them. In eval mode samples do not mix, so the gradients are
    per-sample ones. A batch of another shape than the captured example is captured anew.

    Args:
        model: the network that was captured; it is left as found.
        coupling: of its graph.
        batches: pairs (inputs, targets), inputs as for `prunus.graph.capture.capture`; the first input tensor has
            the samples on dim 0.
        loss_fn: (outputs, targets) → one number; without it only contributions are measured.
        progress: called with (batches done, batches in all or 0 where unknown).

    Raises:
        DataError: no batches, a batch that is no pair, one that runs through another program than the captured one,
            or a statistic that is NaN or infinite; the axis is named.
        OptionError, ModelError: the loss is no single number, or carries no gradient.
    """
    model = unwrap(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    # Fresh leaves: gradients reach frozen networks too, and no .grad is written.
    tensors = {name: _leaf(tensor) for name, tensor in parameters.items()}
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    programs = {_shapes_of_graph(coupling): (coupling, find_places(coupling).reads)}
    sums = UnitSums(coupling)
    with evaluating(model):
        for inputs, targets in pairs(batches, device, progress):
            local, reads = _program(programs, model, coupling, inputs)
            flat = flat_inputs(local.graph, *split_inputs(inputs))
            _measure(sums, local, reads, tensors, flat, targets, loss_fn)
    energy, slope = sums.means()
    return ActivationStatistics(energy, slope if loss_fn is not None else None, sums.samples)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _measure(
    sums: UnitSums,
    coupling: Coupling,
    reads: Reads,
    tensors: Mapping[str, Tensor],
    inputs: list[Tensor],
    targets: Any,
    loss_fn: LossFunction | None,
) -> None:
    wanted = {ref for refs in reads.values() for ref in refs}
    found: dict[Ref, Tensor] = {}

    def observe(node: Node, result: Any) -> None:
        for ref in wanted_at.get(node.name, ()):
            found[ref] = result[ref.index] if isinstance(result, (tuple, list)) else result
            sums.add_energy(coupling, reads, ref, found[ref])

    wanted_at: dict[str, list[Ref]] = {}
    for ref in wanted:
        wanted_at.setdefault(ref.node, []).append(ref)
    with torch.set_grad_enabled(loss_fn is not None):
        outputs = run(coupling.graph, tensors, inputs, observe=observe)
        batch = inputs[0].shape[0]
        sums.samples += batch
        if loss_fn is None:
            return
        refs = [ref for ref, value in found.items() if value.requires_grad]
        loss = checked_loss(loss_fn(outputs, targets))
        grads = torch.autograd.grad(loss, [found[ref] for ref in refs], allow_unused=True)
    for ref, grad in zip(refs, grads, strict=True):
        if grad is not None:
            # The mean over the batch divided every sample's gradient by its size.
            sums.add_slope(coupling, reads, ref, grad * batch)


def _shapes_of_graph(coupling: Coupling) -> tuple[tuple[int, ...], ...]:
    return tuple(coupling.graph.node(name).shape for name in coupling.graph.inputs)


def _program(
    programs: dict[tuple[tuple[int, ...], ...], tuple[Coupling, Reads]], model: nn.Module, first: Coupling, inputs: Any
) -> tuple[Coupling, Reads]:
    """Return the coupling for inputs of these shapes: literals such as view sizes belong to one batch shape."""
    leaves = pytree.tree_leaves(split_inputs(inputs))
    shapes = tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))
    if shapes not in programs:
        protected = any(frozen.reason == "output" for frozen in first.frozen)
        local = couple(capture(model, inputs), protect_outputs=protected)
        if {name: axis.size for name, axis in local.axes.items()} != {n: a.size for n, a in first.axes.items()}:
            raise DataError(
                f"a calibration batch of shapes {list(shapes)} runs through another program than the captured one; "
                f"allowed is what gives the same axes. Capture with an example of the shapes of a batch."
            )
        programs[shapes] = (local, find_places(local).reads)
    return programs[shapes]
