"""Shares in given proportions, as large as the limits allow: what uniform and ERK allocation share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prunus.budget.allocator import UnitProblem
from prunus.budget.spend_rest import top_up


def spread_shares(problem: UnitProblem, proportions: Mapping[str, float]) -> dict[str, int]:
    """n_a = max(floor_a, ⌊min(1, p·w_a)·size_a⌋) with the largest p that fits, then the largest remainders.

    The price is monotone in p, so p is found by bisection; the remainders, ordered, by a second one. An axis that is
    whole already leaves more to the others.

    Args:
        problem: sizes, floors and limits.
        proportions: axis id → w_a > 0.
    """
    sizes = {a: len(s) for a, s in problem.scores.items()}

    def target(a: str, p: float) -> float:
        return min(1.0, p * proportions[a]) * sizes[a]

    def counts(p: float) -> dict[str, int]:
        return {a: problem.snap(a, math.floor(target(a, p) + 1e-9)) for a in sizes}

    low, high = 0.0, 1.0 / min(proportions.values(), default=1.0)
    if problem.fits(counts(high)):
        return counts(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.fits(counts(middle)) else (low, middle)
    base = counts(low)
    room = [a for a in sizes if problem.above(a, base[a]) is not None]
    room.sort(key=lambda a: (math.floor(target(a, low)) - target(a, low), a))
    first, last = 0, len(room)
    while first < last:
        middle_index = (first + last + 1) // 2
        more = base | _raised(problem, base, room[:middle_index])
        first, last = (middle_index, last) if problem.fits(more) else (first, middle_index - 1)
    return top_up(problem, base | _raised(problem, base, room[:first]), [*room[first:], *room[:first]])


def _raised(problem: UnitProblem, base: Mapping[str, int], axes: list[str]) -> dict[str, int]:
    return {a: problem.above(a, base[a]) or base[a] for a in axes}
