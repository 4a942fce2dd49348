"""An allocator: wide axes lose more than narrow ones."""

from __future__ import annotations

from prunus.budget import UnitProblem
from prunus.budget.proportional import spread_shares


def square_root(problem: UnitProblem, /) -> dict[str, int]:
    """Keep widths in proportion to the square root of the old ones: n_a = min(size_a, p · √size_a), the largest p.

    Source: own.
    """
    return spread_shares(problem, {axis: len(scores) ** -0.5 for axis, scores in problem.scores.items() if len(scores)})
