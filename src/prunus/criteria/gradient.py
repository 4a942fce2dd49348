"""Score a weight by the slope of the loss in it."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("gradient")
def gradient(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its mean absolute gradient: s = E|g|.

    Source: own; the slope as relevance: Mozer and Smolensky, "Skeletonization: A Technique for Trimming the Fat from a
    Network via Relevance Assessment", NIPS 1988.

    Raises:
        OptionError: the evidence has no ``grad_abs``.
    """
    grad_abs = needed(evidence.grad_abs, "grad_abs", "gradient")
    return {name: precise(grad_abs[name]).clone() for name in evidence.weights}
