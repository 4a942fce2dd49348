"""Repair of integer counts: shrink axes until every limit holds, then widen axes while it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.limits import METRICS
from prunus.budget.polynomial import FIELDS
from prunus.budget.width_grid import considered

_STRIDES = (1, 8, 64)
_ROUNDS = 200


def refill(problem: UnitProblem, counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts that hold every limit and leave no room for one more allowed step of any axis.

    While a limit is broken, the steps down with the least damage per share of the budget saved are taken, none below
    `considered`; then the steps up with the most damage avoided per share of the budget spent.
    """
    chosen = {a: problem.snap(a, counts[a]) for a in problem.scores}
    least = considered(problem)
    while not problem.fits(chosen):
        moves = _moves(problem, chosen, lambda a, n, s: _below(problem, a, n, s, least[a]))
        if not moves:
            chosen = dict(least)
            break
        _, gain, saved = _judged(problem, chosen, moves)
        cost = np.where(saved < 0, gain / np.maximum(-saved, 1e-12), np.inf)
        _take(problem, chosen, [moves[i] for i in np.argsort(cost, kind="stable")], shrinking=True)
    for _ in range(_ROUNDS):
        moves = _moves(problem, chosen, problem.above)
        if not moves:
            break
        fits, gain, spent = _judged(problem, chosen, moves)
        worth = np.where(fits, gain / np.maximum(spent, 1e-12), np.inf)
        best = [moves[i] for i in np.argsort(worth, kind="stable") if fits[i]]
        if not best:
            break
        _take(problem, chosen, best, shrinking=False)
    return chosen


def _take(problem: UnitProblem, counts: dict[str, int], moves: Sequence[tuple[str, int]], *, shrinking: bool) -> None:
    """Make the best eighth of the moves, one an axis: downwards until the limits hold, upwards each that fits.

    Prices change with every move, so the others are evaluated again.
    """
    moved: set[str] = set()
    for a, n in moves:
        if len(moved) > len(counts) // 8 or (shrinking and moved and problem.fits(counts)):
            break
        if a not in moved and (shrinking or problem.fits(counts | {a: n})):
            counts[a] = n
            moved.add(a)


def _moves(
    problem: UnitProblem, counts: Mapping[str, int], step: Callable[[str, int, int], int | None]
) -> list[tuple[str, int]]:
    moves = ((a, step(a, counts[a], stride)) for stride in _STRIDES for a in problem.scores)
    return list(dict.fromkeys((a, n) for a, n in moves if n is not None))


def _below(problem: UnitProblem, axis: str, count: int, step: int, least: int) -> int | None:
    if count <= least:
        return None
    lower = problem.snap(axis, count - step)
    return max(least, lower if lower < count else problem.snap(axis, count - 1))


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
