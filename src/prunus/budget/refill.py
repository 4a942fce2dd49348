"""The integral fix-up: shrink what fits worst until every limit holds, grow what pays best while it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.limits import METRICS
from prunus.budget.polynomial import FIELDS

_STRIDES = (1, 8, 64)
_ROUNDS = 400


def refill(problem: UnitProblem, counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts that hold every limit and have no room left for one more allowed step of any axis.

    Where a limit is broken, the step down with the least damage per share of the budget saved is taken, and again;
    then the steps up with the most damage avoided per share of the budget spent.
    """
    chosen = {a: problem.snap(a, counts[a]) for a in problem.scores}
    while not problem.fits(chosen):
        moves = _moves(problem, chosen, lambda a, n, s: _below(problem, a, n, s))
        if not moves:
            return problem.least
        _, gain, saved = _judged(problem, chosen, moves)
        a, n = moves[int(np.argmin(np.where(saved < 0, gain / np.minimum(saved, -1e-12), np.inf)))]
        chosen[a] = n
    for _ in range(_ROUNDS):
        moves = _moves(problem, chosen, problem.above)
        if not moves:
            break
        fits, gain, spent = _judged(problem, chosen, moves)
        if not fits.any():
            break
        worth = np.where(fits, -gain / np.maximum(spent, 1e-12), -np.inf)
        a, n = moves[int(np.argmax(worth))]
        chosen[a] = n
    return chosen


def _moves(
    problem: UnitProblem, counts: Mapping[str, int], step: Callable[[str, int, int], int | None]
) -> list[tuple[str, int]]:
    found = ((a, step(a, counts[a], stride)) for stride in _STRIDES for a in problem.scores)
    return list(dict.fromkeys((a, n) for a, n in found if n is not None))


def _below(problem: UnitProblem, axis: str, count: int, step: int) -> int | None:
    allowed = problem.choices(axis)
    at = int(np.searchsorted(allowed, count))
    if at == 0:
        return None
    return int(allowed[max(0, min(at - 1, int(np.searchsorted(allowed, count - step, side="right")) - 1))])


def _judged(
    problem: UnitProblem, counts: Mapping[str, int], moves: Sequence[tuple[str, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each move, whether it fits, the change of damage, and the change of price in shares of the limits."""
    place = {a: i for i, a in enumerate(problem.scores)}
    here = np.array([counts[a] for a in problem.scores], np.int64)
    widths = np.tile(here, (len(moves) + 1, 1))
    for row, (a, n) in enumerate(moves):
        widths[row, place[a]] = n
    prices = problem.polynomial.prices(widths)
    columns = [FIELDS.index(METRICS[limit.metric]) for limit in problem.limits]
    values = np.array([limit.value for limit in problem.limits])
    fits = np.asarray((prices[:-1, columns] <= values).all(axis=1))
    change = np.asarray(((prices[:-1, columns] - prices[-1, columns]) / np.maximum(values, 1)).max(axis=1))
    damage = np.array([problem.curve(a)[n] - problem.curve(a)[counts[a]] for a, n in moves])
    return fits, damage, change
