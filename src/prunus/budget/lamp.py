"""LAMP: a unit counts for as much as it holds of what would be left if it were the next to go."""

from __future__ import annotations

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.one_threshold import keep_above
from prunus.criteria.lamp import lamp_scores

__all__ = ["lamp", "lamp_scores"]


@ALLOCATORS.register("lamp")
def lamp(problem: UnitProblem, /) -> dict[str, int]:
    """Keep the units with the highest LAMP scores of the whole network, with the lowest threshold that fits.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611 (for weights; here
    units).
    """
    return keep_above(problem, {a: lamp_scores(s) for a, s in problem.scores.items()})
