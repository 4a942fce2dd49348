"""Score a weight by the first-order change of the loss when it is removed."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("taylor-weight")
def taylor_weight(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by the squared first-order change of the loss: s = (E[g] · w)².

    It squares the mean gradient, which is near zero at a trained optimum; ``importance-weighted``, which averages the
    squares, is the more stable choice.
    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.

    Raises:
        OptionError: the evidence has no ``grad``.
    """
    grad = needed(evidence.grad, "grad", "taylor-weight")
    return {name: (precise(grad[name]) * precise(weight)).square() for name, weight in evidence.weights.items()}
