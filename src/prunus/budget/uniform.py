"""Every axis keeps the same share of its units."""

from __future__ import annotations

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.proportional import spread_shares


@ALLOCATORS.register("uniform")
def uniform(problem: UnitProblem, /) -> dict[str, int]:
    """n_a = max(floor_a, ⌊p·size_a⌋) with the largest p that fits; the rest is given out by largest remainder.

    Source: own.
    """
    return spread_shares(problem, dict.fromkeys(problem.scores, 1.0))
