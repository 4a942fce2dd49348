"""Score a weight by the derivative of the loss in a gate on it."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("snip")
def snip(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its connection sensitivity: s = |w · E[g]|.

    The paper divides by the sum over all weights, which changes no ranking.

    Source: Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", arXiv:1810.02340.

    Raises:
        OptionError: the evidence has no ``grad``.
    """
    grad = needed(evidence.grad, "grad", "snip")
    return {name: (precise(grad[name]) * precise(weight)).abs() for name, weight in evidence.weights.items()}
