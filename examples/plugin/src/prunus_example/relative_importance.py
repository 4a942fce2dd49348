"""A weight criterion: how much a weight counts among those beside it."""

from __future__ import annotations

from torch import Tensor

from prunus.criteria import Evidence
from prunus.criteria.weight_statistics import precise


def relative_importance(evidence: Evidence, /) -> dict[str, Tensor]:
    """Score a weight by its share of its row and of its column: s_ij = |w_ij| / Σ_j |w_ij| + |w_ij| / Σ_i |w_ij|.

    A convolution counts as one matrix of outputs × (inputs · kernel). Whole rows and columns of small weights are not
    emptied, as they are by magnitude.

    Source: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models", ICLR
    2024 (relative importance, without the activations).

    Shapes: name → shape of the weight, float32 or wider.
    """
    return {name: _shares(precise(weight).abs()) for name, weight in evidence.weights.items()}


def _shares(size: Tensor) -> Tensor:
    matrix = size.reshape(size.shape[0], -1)
    rows, columns = matrix.sum(1, keepdim=True), matrix.sum(0, keepdim=True)
    least = 1e-30  # a row of zeros has no shares
    return (matrix / rows.clamp_min(least) + matrix / columns.clamp_min(least)).reshape(size.shape)
