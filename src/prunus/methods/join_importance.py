"""The importance of each operand of each addition and concatenation: the slope of the loss in a gate on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.analysis import BATCH, Analysis
from prunus.data.calibration import checked_loss, pairs
from prunus.errors import DataError
from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import Override, flat_inputs, run
from prunus.graph.ir import Graph, Node, refs_in
from prunus.graph.program_by_shape import ProgramsByShape
from prunus.methods.reduction import Reduction, tensors_of
from prunus.surgery.proving.verify import masked_tensors, reference_overrides
from prunus.tree import concat_joins, residual_joins

GateImportance = dict[tuple[str, int], float]


class Gates:
    """Gates on the operands of every addition and concatenation of a network.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771, with a gate on a
    whole branch instead of one on a channel.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.joins = gated_joins(analysis.coupling.graph)
        joins = {"joins": lambda local: gated_joins(local.graph)}
        self._programs = ProgramsByShape(analysis.model, analysis.coupling, joins, made=lambda local: local)

    def importance(self, reduction: Reduction, keep: Mapping[str, np.ndarray] | None = None) -> GateImportance:
        """Return, per (join, operand), I = E_samples[(∂ℓ/∂γ)²] at γ = 1, where γ scales the operand.

        ∂ℓ/∂γ = Σ a·∂ℓ/∂a over the operand's elements of one sample; a value whose first dim is not the batch is
        one sample a batch. The network is the reduced one: bypassed operands are zero, emptied axes masked, and so are
        the units that ``keep`` lacks.

        Raises:
            DataError: no calibration batches, batches of another program, or a loss that is not finite.
        """
        if not reduction.dropped and not keep:
            importance: GateImportance = self.analysis.remember("gate importance", lambda: self._measure(reduction, {}))
            return importance
        return self._measure(reduction, keep or {})

    def _measure(self, reduction: Reduction, keep: Mapping[str, np.ndarray]) -> GateImportance:
        sums: dict[tuple[str, int], float] = dict.fromkeys(self.joins, 0.0)
        plan = reduction.as_plan(keep)
        tensors = tensors_of(self.analysis)
        masked = masked_tensors(tensors | dict(self.analysis.coupling.graph.constants), self.analysis.coupling, plan)
        device = next((t.device for t in tensors.values()), torch.device("cpu"))
        samples = 0
        for inputs, targets in pairs(self.analysis.calibration.batches(BATCH), device):
            coupling = self._programs.of(inputs)
            flat = flat_inputs(coupling.graph, *split_inputs(inputs))
            # The gates are applied last: a bypassed operand keeps its gate, whose slope is zero because it reads zeros.
            overrides = reference_overrides(coupling, plan)
            slopes = self._slopes(coupling, masked | dict(coupling.graph.constants), flat, targets, overrides)
            samples += flat[0].shape[0]
            for key, slope in slopes.items():
                sums[key] += float(slope.double().square().sum())
        return _finite({key: total / samples for key, total in sums.items()})

    def _slopes(
        self,
        coupling: Coupling,
        tensors: Mapping[str, Tensor],
        inputs: list[Tensor],
        targets: Any,
        overrides: Mapping[str, Override],
    ) -> dict[tuple[str, int], Tensor]:
        batch = inputs[0].shape[0]
        gates: dict[tuple[str, int], Tensor] = {}
        gated = {join: _gated(gates, batch, overrides.get(join)) for join, _ in self.joins}
        with torch.enable_grad():
            outputs = run(coupling.graph, tensors, inputs, override={**overrides, **gated})
            loss = checked_loss(self.analysis.loss(outputs, targets))
        grads = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        # The mean over the batch divided every sample's slope by its size.
        return {
            key: grad.reshape(-1) * (batch if grad.numel() == batch else 1)
            for key, grad in zip(gates, grads, strict=True)
            if grad is not None
        }


def gated_joins(graph: Graph) -> tuple[tuple[str, int], ...]:
    """Return (join, operand) of every addition and concatenation of activations."""
    joins = [*residual_joins(graph), *concat_joins(graph)]
    joins.sort(key=lambda node: node.order)
    return tuple((node.name, i) for node in joins for i in range(len(list(refs_in(node.args)))))


def _gated(gates: dict[tuple[str, int], Tensor], batch: int, inner: Override | None) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        number = 0
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[i] = _scaled(gates, (node.name, number), leaf, batch)
                number += 1
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return inner(node, function, args, kwargs) if inner is not None else function(*args, **kwargs)

    return apply


def _scaled(gates: dict[tuple[str, int], Tensor], key: tuple[str, int], value: Tensor, batch: int) -> Tensor:
    if not value.is_floating_point():
        return value
    per_sample = value.dim() > 0 and value.shape[0] == batch
    shape = (batch, *[1] * (value.dim() - 1)) if per_sample else ()
    gates[key] = torch.ones(shape, dtype=value.dtype, device=value.device, requires_grad=True)
    # A copy, so that a later in-place op cannot change a value that the backward pass needs.
    return value.clone() * gates[key]


def _finite(importance: Mapping[tuple[str, int], float]) -> GateImportance:
    bad: Iterable[tuple[str, int]] = [key for key, value in importance.items() if not value < float("inf")]
    for join, operand in bad:
        raise DataError(
            f"the gate importance of operand {operand} of {join!r} is NaN or infinite; allowed are finite numbers. "
            "Check the calibration data and the weights."
        )
    return dict(importance)
