"""The derivative of each sample's loss in a gate on each unit, from one backward pass a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.criteria.probes import Calibration
from prunus.criteria.producers_consumers import Edge, find_places, unit_columns
from prunus.criteria.unit_sums import check_statistics
from prunus.data.calibration import checked_loss, evaluating, inputs_of, pairs
from prunus.data.programs import Programs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import Override, run
from prunus.graph.ir import Node
from prunus.graph.layout import atoms_of

Edges = Mapping[str, tuple[Edge, ...]]


class Loss(Protocol):
    """The mean over a batch of the losses of its samples."""

    def __call__(self, outputs: Any, flat: list[Tensor], targets: Any) -> Tensor:
        """Return one number for the outputs of a batch."""
        ...


def gate_slopes(calibration: Calibration, loss: Loss, labelled: bool) -> Iterator[tuple[dict[str, Tensor], Any]]:
    """Yield, for each batch, axis id → z_nu = Σ a·∂ℓ_n/∂a over the places where unit u is read, and its targets.

    z is ∂ℓ_n/∂γ_u at γ = 1 for a gate γ on every edge of the unit (`Edge`): its whole first-order effect on the loss
    of sample n. Where one op reads the axis in several operands (the scores of attention), one gate is on the product.
    A value whose first dim is not the batch, nor a multiple of it, counts as one sample. The hidden state that a
    recurrent layer passes to its next step has no gate, only its output has.

    Args:
        calibration: model, coupling and data.
        loss: (outputs, flat inputs, targets) → the mean over the batch of the losses of its samples.
        labelled: batches must have targets.

    Shapes: z (samples, units), float64.

    Raises:
        DataError: no batches, missing labels, a batch of another program, or a slope that is not finite.
    """
    programs = Programs(calibration.model, calibration.coupling)
    edges: dict[int, Edges] = {}
    walk = pairs if labelled else inputs_of
    with evaluating(programs.model):
        for inputs, targets in walk(calibration.batches, programs.device):
            coupling, flat = programs.of(inputs)
            if id(coupling) not in edges:
                edges[id(coupling)] = find_places(coupling).edges
            slopes = _slopes(
                coupling, edges[id(coupling)], programs.tensors, flat, partial(loss, flat=flat, targets=targets)
            )
            check_statistics(slopes)
            yield slopes, targets


def _slopes(
    coupling: Coupling, edges: Edges, tensors: Mapping[str, Tensor], flat: list[Tensor], loss: Callable[[Any], Tensor]
) -> dict[str, Tensor]:
    batch = flat[0].shape[0]
    places = {(edge.node, edge.number) for slopes in edges.values() for edge in slopes}
    copies: dict[tuple[str, int], Tensor] = {}
    overrides = {node: _copying(copies, {n for name, n in places if name == node}) for node in {p[0] for p in places}}
    outputs = run(coupling.graph, tensors, flat, override=overrides)
    value = checked_loss(loss(outputs))
    grads = torch.autograd.grad(value, list(copies.values()), allow_unused=True)
    slopes = {name: torch.zeros(batch, axis.size, dtype=torch.float64) for name, axis in coupling.axes.items()}
    # The mean over the batch divided every sample's gradient by its size.
    products = {
        key: copies[key].detach() * grad * batch for key, grad in zip(copies, grads, strict=True) if grad is not None
    }
    for name, ends in edges.items():
        axis = coupling.axes[name]
        for edge in ends:
            product = products.get((edge.node, edge.number))
            if product is None:
                continue
            operands = sum(other.node == edge.node for other in ends)
            for dim, expr in enumerate(coupling.values[edge.ref]):
                if axis.atom in atoms_of(expr):
                    lines = _per_sample(product, dim, batch)
                    slopes[name] += unit_columns(coupling, axis, expr, lines) / operands
    return slopes


def _copying(copies: dict[tuple[str, int], Tensor], numbers: set[int]) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        number = 0
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                if number in numbers and leaf.is_floating_point() and leaf.requires_grad:
                    # A separate copy, so that its gradient is that of this consumer alone.
                    leaves[i] = copies[node.name, number] = leaf.clone()
                number += 1
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return function(*args, **kwargs)

    return apply


def _per_sample(value: Tensor, dim: int, batch: int) -> Tensor:
    """Sum over everything but samples and one dim, in float64. Shapes: (…, D, …) → (B, D)."""
    lines = value.movedim(dim, -1)
    if lines.dim() > 1 and lines.shape[0] == batch:
        return lines.reshape(batch, -1, lines.shape[-1]).sum(1, dtype=torch.float64)
    if lines.dim() > 2 and lines.shape[1] == batch:
        return lines.transpose(0, 1).reshape(batch, -1, lines.shape[-1]).sum(1, dtype=torch.float64)
    if lines.dim() > 1 and lines.shape[0] and lines.shape[0] % batch == 0:
        return lines.reshape(batch, -1, lines.shape[-1]).sum(1, dtype=torch.float64)
    whole = lines.reshape(-1, lines.shape[-1]).sum(0, dtype=torch.float64)
    return torch.cat([whole[None], torch.zeros(batch - 1, len(whole), dtype=torch.float64, device=whole.device)])
