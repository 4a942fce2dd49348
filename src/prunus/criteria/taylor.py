"""Score a weight by the first-order change of the loss when it goes."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria.criterion import CRITERIA
from prunus.criteria.weight_statistics import Evidence, needed, precise


@CRITERIA.register("taylor_weight")
def taylor_weight(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by the squared first-order change of the loss: s = (E[g] · w)².

    The square is of the mean gradient; at a trained optimum that mean is near zero, and ``importance_weighted``,
    whose mean is of the squares, is the steadier choice.
    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.

    Raises:
        OptionError: the evidence has no ``grad``.
    """
    grad = needed(evidence.grad, "grad", "taylor_weight")
    return {name: (precise(grad[name]) * precise(weight)).square() for name, weight in evidence.weights.items()}
