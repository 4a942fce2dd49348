"""The knapsack over widths that multiply each other, by variable elimination: the Viterbi algorithm on a chain."""

from __future__ import annotations

import itertools
import math

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.elimination import elimination_order, minimise
from prunus.budget.elimination_exact import eliminate, levels_of, work
from prunus.budget.integer_repair import refill
from prunus.budget.knapsack import improve
from prunus.budget.lagrangian import Answer, best_of_mixes, lagrangian
from prunus.budget.width_grid import Grid, best_weights, mix, tables

LEVELS = 16
_CELLS = 2**20
_JOINS = 30_000
_EFFORT = 6e7
_MIXES = 4
_TRIES = 500
_FINE = 2**40


def viterbi(problem: UnitProblem, /) -> dict[str, int]:
    """Minimise Σ_a d_a(n_a) under the exact price Σ Π n_i, in which widths multiply.

    Axes are eliminated one after another on a grid of up to 16 widths an axis: first with a price λ of the budget, for
    networks such as chains and residual stages, where an axis has few neighbours; then, where the tables are small
    enough, with frontiers under the budget, which gives the optimum of the grid. Networks in which every width
    multiplies every other, such as DenseNets, are solved by `knapsack`. The rest of the budget is spent unit by unit.

    Source: own; the elimination: Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial
    Intelligence 113, 1999.
    """
    grid = Grid.of(problem, LEVELS)
    scopes = list(problem.polynomial.scopes())
    sizes = [len(w) for w in grid.widths]
    order = elimination_order(sizes, scopes)
    best = lagrangian(problem)
    if order.cells > _CELLS:
        return improve(problem, best)
    grid = Grid.of(problem, LEVELS - 1, best)
    best = min(best, best_of_mixes(problem, lambda fields: _priced(problem, grid, fields)), key=problem.predicted)
    sizes = [len(w) for w in grid.widths]
    order = elimination_order(sizes, scopes)
    joins = work(order, sizes)
    if joins <= _JOINS:
        exact = _budgeted(problem, grid, joins)
        if exact is not None:
            best = min(best, refill(problem, exact), key=problem.predicted)
    return improve(problem, best)


def _budgeted(problem: UnitProblem, grid: Grid, joins: int) -> dict[str, int] | None:
    """Return the best point of the grid that holds every limit; the optimum, with one limit and no frontier too long.

    Several limits are mixed; of each mix the best point that holds every limit is a candidate.
    """
    cap = int(min(2048, max(48, math.sqrt(_EFFORT / max(1, joins)))))
    n = max(1, len(problem.limits))
    weights, best = np.full(n, 1 / n), None
    for _ in range(_MIXES if n > 1 else 1):
        fields, budget = mix(problem, weights)
        prices = tables(problem, grid, fields)
        order = elimination_order([len(w) for w in grid.widths], prices)
        frontier, messages = eliminate(order, grid.damage, prices, budget, cap)
        points = (grid.counts(levels_of(messages, i)) for i in reversed(range(len(frontier))))
        tried = list(itertools.islice(points, 1))
        counts = next((p for p in itertools.chain(tried, itertools.islice(points, _TRIES)) if problem.fits(p)), None)
        if counts is not None and (best is None or problem.predicted(counts) < problem.predicted(best)):
            best = counts
        if not tried:
            break
        spent = problem.polynomial.prices(np.array([[tried[0][a] for a in problem.scores]], np.int64))[0]
        weights = best_weights(problem, spent, weights)
    return best


def _priced(problem: UnitProblem, grid: Grid, fields: np.ndarray) -> Answer:
    prices = tables(problem, grid, fields.astype(float) * _FINE)
    sizes = [len(w) for w in grid.widths]
    order = elimination_order(sizes, prices)
    damage = [((i,), d) for i, d in enumerate(grid.damage)]

    def answer(price: float) -> dict[str, int]:
        factors = [*damage, *((scope, table * (price / _FINE)) for scope, table in prices.items())]
        return grid.counts(minimise(order, sizes, factors))

    return answer
