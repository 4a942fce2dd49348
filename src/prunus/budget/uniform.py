"""Every axis keeps the same share of its units."""

from __future__ import annotations

import math

from prunus.budget.allocator import ALLOCATORS, UnitProblem
from prunus.budget.topup import top_up


@ALLOCATORS.register("uniform")
def uniform(problem: UnitProblem, /) -> dict[str, int]:
    """n_a = max(floor_a, ⌊p·size_a⌋) with the largest p that fits; the rest is given out by largest remainder.

    The price is monotone in p, so p is found by bisection; the remainders, ordered, by a second one.
    """

    def counts(p: float) -> dict[str, int]:
        return {a: max(problem.floor[a], math.floor(p * len(s) + 1e-9)) for a, s in problem.scores.items()}

    low, high = 0.0, 1.0
    if problem.fits(counts(1.0)):
        return counts(1.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.fits(counts(middle)) else (low, middle)
    base = counts(low)
    room = [a for a, s in problem.scores.items() if base[a] < len(s)]
    room.sort(key=lambda a: (math.floor(low * len(problem.scores[a])) - low * len(problem.scores[a]), a))
    first, last = 0, len(room)
    while first < last:
        middle_index = (first + last + 1) // 2
        more = base | {a: base[a] + 1 for a in room[:middle_index]}
        first, last = (middle_index, last) if problem.fits(more) else (first, middle_index - 1)
    return top_up(problem, base | {a: base[a] + 1 for a in room[:first]}, [*room[first:], *room[:first]])
