"""OWL: layers with a large share of outliers among their weights keep more, the others less."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from prunus.errors import BudgetError, OptionError

OUTLIER = 5.0
"""M: a weight is an outlier if its score exceeds this multiple of the mean of its layer."""
SPREAD = 0.08
"""λ: largest difference between the kept share of a layer and that of the network."""

Scores = Mapping[str, np.ndarray]


def outlier_share(scores: np.ndarray, outlier: float = OUTLIER) -> float:
    """Return the share of scores above M times their mean, D; 0 where there are none.

    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", arXiv:2310.05175.
    """
    sizes = np.abs(np.asarray(scores, float)).reshape(-1)
    return float((sizes > outlier * sizes.mean()).mean()) if sizes.size else 0.0


def owl_counts(scores: Scores, keep_count: int, *, outlier: float = OUTLIER, spread: float = SPREAD) -> dict[str, int]:
    """Return the number of weights that each layer keeps, ``keep_count`` in all.

    kept_l = k + λ · (D_l − D̄) / max_j |D_j − D̄|, with D_l the layer's share of outliers, |A| > M·mean|A|, D̄ their mean
    over all weights and k the share that the network keeps: in proportion to the outliers, at most λ from k. Near 0
    and 1, λ is at most half the distance of k to them. Largest remainders give integers.
    Source: Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
    Sparsity", arXiv:2310.05175, here with means over single weights, for networks whose layers differ in size.

    Args:
        scores: layer → A = |w|·‖x‖₂ of its weights, of any shape.
        keep_count: number of weights that stay.
        outlier: M, above 0.
        spread: λ, 0 to 1.

    Raises:
        OptionError: M or λ out of range.
        BudgetError: more weights than there are.
    """
    if not outlier > 0 or not 0 <= spread <= 1:
        raise OptionError(f"outlier is {outlier}, spread {spread}; allowed are numbers above 0, and 0 to 1.")
    sizes = {name: score.size for name, score in scores.items()}
    total = sum(sizes.values())
    if not 0 <= keep_count <= total:
        raise BudgetError(f"keep_count is {keep_count:,}; allowed: 0 to {total:,}, all weights there are.")
    shares = {name: outlier_share(score, outlier) for name, score in scores.items()}
    kept = keep_count / max(1, total)
    mean = sum(shares[name] * size for name, size in sizes.items()) / max(1, total)
    away = max((abs(share - mean) for share in shares.values()), default=0.0)
    # Equal up to rounding: the outliers do not distinguish the layers.
    factor = min(spread, kept / 2, (1 - kept) / 2) / away if away > 1e-12 else 0.0
    exact = {name: size * (kept + factor * (shares[name] - mean)) for name, size in sizes.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: keep_count - sum(counts.values())]:
        counts[name] += 1
    return counts
