"""One ranking over all units of the network, scores made comparable by their axis mean."""

from __future__ import annotations

import numpy as np

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.one_threshold import keep_above


@ALLOCATORS.register("global")
def global_rank(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with s_u / mean_axis(s) ≥ t, with the smallest t that fits; at least floor_a units an axis.

    Each axis keeps a tenth of its units at least, so that no layer becomes the bottleneck of the whole network; where
    that does not fit, the plain floor holds. What a unit too dear for the rest left over goes to the next best ones.
    Source: Fang et al., "DepGraph", arXiv:2301.12900 (normalised global ranking).
    """
    return keep_above(problem, {a: s / max(float(np.mean(s)), 1e-30) for a, s in problem.scores.items()})
