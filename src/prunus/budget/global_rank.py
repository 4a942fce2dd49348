"""One ranking over all units of the network, scores made comparable by their axis mean."""

from __future__ import annotations

import numpy as np

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.topup import top_up


@ALLOCATORS.register("global")
def global_rank(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with s_u / mean_axis(s) ≥ t, with the smallest t that fits; at least floor_a units an axis.

    Each axis keeps a tenth of its units at least, so that no layer becomes the bottleneck of the whole network; where
    that does not fit, the plain floor holds. What a unit too dear for the rest left over goes to the next best ones.
    Source: Fang et al., "DepGraph", arXiv:2301.12900 (normalised global ranking).
    """
    scaled = {a: s / max(float(np.mean(s)), 1e-30) for a, s in problem.scores.items()}
    for share in (0.1, 0.0):
        least = {a: max(problem.floor[a], int(share * len(s))) for a, s in scaled.items()}
        if problem.fits(least):
            break
    levels = np.unique(np.concatenate([*scaled.values(), [np.inf]]))

    def counts(threshold: float) -> dict[str, int]:
        return {a: max(least[a], int(np.count_nonzero(s >= threshold))) for a, s in scaled.items()}

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if problem.fits(counts(levels[middle])) else (middle + 1, high)
    chosen = counts(levels[low])
    room = [a for a, s in scaled.items() if chosen[a] < len(s)]
    return top_up(problem, chosen, sorted(room, key=lambda a: -float(scaled[a][chosen[a]])))
