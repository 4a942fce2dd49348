"""One threshold over the units of many axes: what global, isomorphic and LAMP allocation share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.spend_rest import top_up

_LEAST_SHARE = 0.1


def guarded_least(problem: UnitProblem) -> dict[str, int]:
    """Return the floors, raised to a tenth of each axis where the limits allow it.

    Scores say little about what happens when nearly all of a layer goes, so no layer becomes the bottleneck of the
    whole network by them.
    """
    return raised_least(problem, {a: int(_LEAST_SHARE * len(s)) for a, s in problem.scores.items()})


def raised_least(problem: UnitProblem, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the floors, raised to what is wanted where all of it fits at once."""
    least = problem.least
    higher = {a: max(n, problem.snap(a, wanted[a])) for a, n in least.items()}
    return higher if problem.fits(higher) else least


def keep_above(problem: UnitProblem, scores: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Keep the units with s ≥ t, with the smallest t that fits; what is left over goes to the next best ones.

    Args:
        problem: says what fits.
        scores: axis id → comparable scores of its units, best first.
    """
    least = guarded_least(problem)
    levels = np.unique(np.concatenate([*scores.values(), [np.inf]]))

    def counts(threshold: float) -> dict[str, int]:
        return {a: max(least[a], problem.snap(a, int(np.count_nonzero(s >= threshold)))) for a, s in scores.items()}

    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if problem.fits(counts(levels[middle])) else (middle + 1, high)
    chosen = counts(levels[low])
    room = [a for a, s in scores.items() if chosen[a] < len(s)]
    return top_up(problem, chosen, sorted(room, key=lambda a: -float(scores[a][chosen[a]])))
