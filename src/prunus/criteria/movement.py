"""Score a weight by whether training moves it away from zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.producing_weights import written
from prunus.criteria.unit_criterion import UnitEvidence, unit_rule
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("movement")
def movement(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its movement over the steps of a training: s = −Σ_t w_t · ∂L/∂w_t.

    It is positive where steps push the weight away from zero, whatever its size. `MovementSums` gives the sums.

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv:2005.07683.

    Raises:
        OptionError: the evidence has no ``movement``.
    """
    sums = needed(evidence.movement, "movement", "movement")
    return {name: precise(sums[name]).clone() for name in evidence.weights}


@unit_rule("movement", needs=("movement",))
def movement_unit(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by the movement of the weights that write it: s_u = −Σ_t Σ_{w writes u} w_t · ∂L/∂w_t.

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv:2005.07683 (summed over a unit).

    Raises:
        OptionError: the evidence has no ``movement``; it needs a running training.
        DataError: a score is not finite.
    """
    return written(evidence.coupling, evidence.statistic("movement", "movement"))


class MovementSums:
    """Running sums −Σ w·g of named weights; call `add_` before each optimizer step.

    Example:
        >>> sums = MovementSums()
        >>> sums.add_({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([-0.5, -0.5])})
        >>> sums.sums["w"].tolist()
        [0.5, -1.0]
    """

    def __init__(self, sums: Mapping[str, Tensor] | None = None) -> None:
        self.sums: dict[str, Tensor] = {name: value.clone() for name, value in (sums or {}).items()}

    @torch.no_grad()
    def add_(self, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor | None]) -> None:
        """Add one step; a weight without a gradient adds nothing."""
        for name, weight in weights.items():
            grad = grads.get(name)
            step = torch.zeros_like(precise(weight)) if grad is None else -precise(weight) * precise(grad)
            self.sums[name] = self.sums[name] + step if name in self.sums else step
