"""Score a weight by its mean squared gradient, alone or times the squared weight."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("importance")
def importance(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by the diagonal of the empirical Fisher matrix: s = E[g²].

    It measures the curvature of the loss in the weight, and ignores how large the weight is that removal sets to zero.

    Source: own; the Fisher diagonal as importance: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural
    networks", arXiv:1612.00796.

    Raises:
        OptionError: the evidence has no ``grad_sq``.
    """
    grad_sq = needed(evidence.grad_sq, "grad_sq", "importance")
    return {name: precise(grad_sq[name]).clone() for name in evidence.weights}


@CRITERIA.register("importance-weighted")
def importance_weighted(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by the quadratic loss of setting it to zero: s = E[g²] · w².


    Source: LeCun et al., "Optimal Brain Damage", NIPS 1989 (here with the empirical Fisher for the Hessian).

    Raises:
        OptionError: the evidence has no ``grad_sq``.
    """
    grad_sq = needed(evidence.grad_sq, "grad_sq", "importance-weighted")
    return {name: precise(grad_sq[name]) * precise(weight).square() for name, weight in evidence.weights.items()}
