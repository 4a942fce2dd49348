"""Score a unit by the dissimilarity of its output to those of the units that stay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.unit_criterion import UnitEvidence, finite, unit_rule


@unit_rule("redundancy", needs=("covariance",))
def redundancy(evidence: UnitEvidence, /) -> dict[str, Tensor]:
    """Score a unit by its linear CKA with the unit most like it among those that stay: s_u = 1 − max_v CKA(a_u, a_v).

    For two single units linear CKA is their squared correlation over samples and positions. Of the most similar pair
    the unit of less variance is removed first, then all are compared again. A constant unit counts as similar to all.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", arXiv:1905.00414.

    Raises:
        OptionError: the evidence has no ``covariance``.
    """
    scores = {}
    statistic = evidence.statistic("covariance", "redundancy")
    for name in evidence.coupling.axes:
        squares = finite(name, statistic[name]).square().numpy()
        # Squared covariances over variances are squared correlations: the cosines of this Gram matrix.
        scores[name] = torch.from_numpy(distinctness(squares))
    return scores


def distinctness(gram: np.ndarray) -> np.ndarray:
    """Score units by their dissimilarity to those that stay: of the most similar pair, that of less norm goes first.

    s_u = 1 − max_{v not removed} cos(u, v) when u is removed, never less than the score of a unit removed before; the
    last one scores 2, the largest value possible. A unit whose weights are all zero counts as similar to all: 0.

    Shapes: (units, units) → (units,), in [0, 2].
    """
    norms = np.sqrt(np.diag(gram))
    safe = np.where(norms > 0, norms, 1.0)
    cosines = np.where((norms > 0)[:, None] & (norms > 0), gram / np.outer(safe, safe), 1.0)
    np.fill_diagonal(cosines, -np.inf)
    scores, left, so_far = np.full(len(norms), 2.0), len(norms), 0.0
    nearest, best = cosines.argmax(1), cosines.max(1)
    while left > 1:
        first = int(best.argmax())
        second = int(nearest[first])
        removed = first if (norms[first], -first) < (norms[second], -second) else second
        so_far = max(so_far, float(np.clip(1 - best[first], 0.0, 2.0)))
        scores[removed] = so_far
        cosines[removed, :] = cosines[:, removed] = best[removed] = -np.inf
        stale = np.flatnonzero((nearest == removed) & (best > -np.inf))
        nearest[stale], best[stale] = cosines[stale].argmax(1), cosines[stale].max(1)
        left -= 1
    return scores
