"""LAMP: a unit counts for as much as it holds of what would be left if it were the next to go."""

from __future__ import annotations

import numpy as np

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.ranking import keep_above


def lamp_scores(scores: np.ndarray) -> np.ndarray:
    """Return lamp_u = s_u² / Σ_{v: s_v ≥ s_u} s_v²; the best has 1, equal scores are ordered as they come.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.

    Args:
        scores: norms, of any shape.

    Shapes: as given, float64.
    """
    flat = np.asarray(scores, float).reshape(-1)
    order = np.argsort(-flat, kind="stable")
    energy = flat[order] ** 2
    out = np.empty_like(flat)
    out[order] = energy / np.maximum(np.cumsum(energy), 1e-300)
    return out.reshape(np.shape(scores))


@ALLOCATORS.register("lamp")
def lamp(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with the highest LAMP scores of the whole network, with the lowest threshold that fits.

    Source: Lee et al., arXiv:2010.07611, for units in the place of weights.
    """
    return keep_above(problem, {a: lamp_scores(s) for a, s in problem.scores.items()})
