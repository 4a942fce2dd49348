"""Score units: every removable axis gets one score a unit; higher = keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunus.criteria.evidence import needed, precise
from prunus.criteria.places import dim_sums, find_places, square_sums, unit_line
from prunus.criteria.random import named_generator
from prunus.errors import DataError
from prunus.graph.coupling import Coupling
from prunus.registry import Registry


@dataclass(frozen=True, slots=True)
class UnitEvidence:
    """What unit criteria read.

    Attributes:
        coupling: the axes and their members.
        weights: tensor name → weight; `dict(model.named_parameters())` gives all.
        grad: tensor name → E[g] of the weights, see `collect_gradients`.
        sensitivity: axis id → (units,), see `activation_statistics`.
        contribution: axis id → (units,), see `activation_statistics`.
        seed: seed of criteria that draw numbers.
    """

    coupling: Coupling
    weights: Mapping[str, Tensor]
    grad: Mapping[str, Tensor] | None = None
    sensitivity: Mapping[str, Tensor] | None = None
    contribution: Mapping[str, Tensor] | None = None
    seed: int = 0


class UnitCriterion(Protocol):
    """Map evidence to axis id → scores (units,), float64; higher = keep, the evidence is only read."""

    def __call__(self, evidence: UnitEvidence, /) -> dict[str, Tensor]:
        """Score every unit of every removable axis."""
        ...


UNIT_CRITERIA: Registry[UnitCriterion] = Registry("unit_criterion")


def unit_scores(coupling: Coupling, axis: str, weight_scores: Mapping[str, Tensor]) -> Tensor:
    """Sum any weight criterion over everything a unit owns, e.g. Σ E[g²] with the scores of "importance".

    Shapes: weight_scores name → shape of the weight; → (units,), float64.

    Raises:
        SelectorError: no such axis.
        DataError: a sum is not finite.
    """
    return _finite(axis, coupling.unit_sums(axis, weight_scores))


@UNIT_CRITERIA.register("magnitude")
def unit_magnitude(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the norm of the weights that write it ("filter norm"): s_u = ‖W_u‖₂.

    Several producers (all convolutions that add into one residual stream) count as one long vector.
    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, with L2 for L1.

    Raises:
        DataError: a weight is missing, or a norm is not finite.
    """
    squares = _written(evidence.coupling, evidence.weights, square_sums)
    return {axis: total.sqrt() for axis, total in squares.items()}


@UNIT_CRITERIA.register("taylor")
def unit_taylor(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the first-order change of the loss without it: s_u = (Σ_{w writes u} w · E[g])².

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.

    Raises:
        OptionError: the evidence has no ``grad``.
        DataError: a weight or gradient is missing, or a score is not finite.
    """
    grad = needed(evidence.grad, "grad", "taylor")
    products = {name: precise(w).double() * grad[name] for name, w in evidence.weights.items() if name in grad}
    return {axis: total.square() for axis, total in _written(evidence.coupling, products).items()}


@UNIT_CRITERIA.register("sensitivity")
def unit_sensitivity(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by how steep the loss is in its output: s_u = E[Σ_positions (∂L/∂a_u)²].

    Raises:
        OptionError: the evidence has no ``sensitivity``.
    """
    return _collected(evidence, needed(evidence.sensitivity, "sensitivity", "sensitivity"))


@UNIT_CRITERIA.register("contribution")
def unit_contribution(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the energy of its output: s_u = E[a_u²].

    Raises:
        OptionError: the evidence has no ``contribution``.
    """
    return _collected(evidence, needed(evidence.contribution, "contribution", "contribution"))


@UNIT_CRITERIA.register("random")
def unit_random(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by a uniform number, s_u ~ U[0, 1), drawn from the seed and the axis id alone."""
    return {
        name: torch.rand(axis.size, generator=named_generator(name, evidence.seed), dtype=torch.float64)
        for name, axis in evidence.coupling.axes.items()
    }


def _written(
    coupling: Coupling, values: Mapping[str, Tensor], sums: Callable[[Tensor, int], Tensor] = dim_sums
) -> dict[str, Tensor]:
    """Sum values over the weights that write each unit; over all its weights where none is known to write it."""
    writes, scores = find_places(coupling).writes, {}
    for name, axis in coupling.axes.items():
        total = torch.zeros(axis.size, dtype=torch.float64)
        for member in writes[name] or axis.members:
            if coupling.graph.tensors[member.tensor].kind != "parameter":
                continue
            if member.tensor not in values:
                if not writes[name]:
                    continue
                raise DataError(f"axis {name!r} is written by {member.tensor!r}, for which there is no value; add it.")
            total += unit_line(coupling, axis, member.expr, sums(values[member.tensor], member.dim))
        scores[name] = _finite(name, total)
    return scores


def _collected(evidence: UnitEvidence, statistic: Mapping[str, Tensor]) -> dict[str, Tensor]:
    missing = [name for name in evidence.coupling.axes if name not in statistic]
    if missing:
        raise DataError(f"axis {missing[0]!r} has no statistic; collect it with the same coupling.")
    return {name: _finite(name, statistic[name].clone()) for name in evidence.coupling.axes}


def _finite(axis: str, scores: Tensor) -> Tensor:
    if not torch.isfinite(scores).all():
        raise DataError(f"scores of axis {axis!r} are NaN or infinite; allowed are finite numbers. Check the weights.")
    return scores
