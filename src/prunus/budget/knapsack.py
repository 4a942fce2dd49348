"""The knapsack: exact where prices add up, and iterated around the last solution where widths multiply each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.integer_repair import refill
from prunus.budget.knapsack_tree import Group, Leaf, Solution, solve_tree
from prunus.budget.lagrangian import lagrangian
from prunus.budget.width_grid import Grid, best_weights, mix
from prunus.errors import BudgetError

LEVELS = 32
_TURNS = 10
_CAP = 1024
_REACH = (float("inf"), 2.0, 1.3, 1.1)


def knapsack(problem: UnitProblem, /) -> dict[str, int]:
    """Minimise Σ_a d_a(n_a) so that every limit holds, by joining the axes' frontiers of price and damage.

    It starts from the solution of `lagrangian`. The price of an axis is that of the network when this axis alone
    changes from the last solution. The knapsack is solved exactly for these prices, its counts are repaired to fit
    (`refill`), and it is solved again around them, in smaller neighbourhoods where that did not help. Where no two axes
    share a weight the result is the optimum.
    Source: Kellerer, Pferschy, Pisinger, "Knapsack Problems", ch. 11 (multiple choice), 2004.
    """
    return improve(problem, lagrangian(problem))


def improve(problem: UnitProblem, here: dict[str, int]) -> dict[str, int]:
    """Solve the knapsack around widths that fit, and again around better ones, in ever smaller neighbourhoods."""
    count = max(1, len(problem.limits))
    weights, reach = np.full(count, 1 / count), list(_REACH)
    for _ in range(_TURNS):
        try:
            solution, grid = _solve_around(problem, here, weights, reach[0])
        except BudgetError:
            break
        counts = grid.counts({i: solution.choice[a] for i, a in enumerate(grid.axes)})
        amounts = problem.polynomial.prices(np.array([[counts[a] for a in problem.scores]], np.int64))[0]
        weights = best_weights(problem, amounts, weights)
        counts = refill(problem, counts)
        if problem.predicted(counts) < problem.predicted(here) - 1e-12:
            here = counts
        elif len(reach) > 1:
            reach.pop(0)
        elif count == 1:
            break
    return here


def _solve_around(
    problem: UnitProblem, here: Mapping[str, int], weights: np.ndarray, reach: float
) -> tuple[Solution, Grid]:
    """Solve the knapsack whose prices are exact when one axis alone leaves ``here``, by no more than ``reach``."""
    grid = Grid.of(problem, LEVELS, here, reach)
    fields, budget = mix(problem, weights)
    widths = np.array([here[a] for a in grid.axes], np.int64)
    whole = problem.polynomial.prices(widths[None])[0]
    leaves = []
    for i, a in enumerate(grid.axes):
        rows = np.tile(widths, (len(grid.widths[i]), 1))
        rows[:, i] = grid.widths[i]
        change = _rounded_up((problem.polynomial.prices(rows) - whole) @ fields)
        leaves.append(Leaf(a, change, grid.damage[i]))
    room = budget - int(_rounded_up(whole @ fields))
    return solve_tree(Group("network", tuple(leaves)), room, cap=_CAP), grid


def _rounded_up(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.ceil(values), np.int64)
