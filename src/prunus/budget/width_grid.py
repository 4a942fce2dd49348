"""A problem on a grid of a few widths an axis, with the price as tables over the axes that multiply each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.budget.allocator import UnitProblem
from prunus.budget.limits import METRICS
from prunus.budget.polynomial import FIELDS
from prunus.budget.proportional import spread_shares

SCALE = 2**32
"""The budget of a mix of several limits, in integer units."""


def even_division(problem: UnitProblem) -> dict[str, int]:
    """Return the widths at which every axis keeps the same share."""
    return problem.once("even", lambda: spread_shares(problem, dict.fromkeys(problem.scores, 1.0)))


def considered(problem: UnitProblem) -> dict[str, int]:
    """Return the least width that is considered for each axis: its floor, or ``least_of_even`` of its uniform width."""

    def raised() -> dict[str, int]:
        even = even_division(problem)
        return raised_least(problem, {a: round(problem.least_of_even * n) for a, n in even.items()})

    return problem.once("considered", raised)


def raised_least(problem: UnitProblem, widths: Mapping[str, int]) -> dict[str, int]:
    """Return the floors, raised to the given widths where these fit all at once."""
    least = problem.least
    higher = {a: max(n, problem.snap(a, widths[a])) for a, n in least.items()}
    return higher if problem.fits(higher) else least


@dataclass(frozen=True, slots=True)
class Grid:
    """Widths to choose from and the damage of each.

    Attributes:
        axes: axis ids in the order of the problem.
        widths: the counts of each axis, ascending.
        damage: predicted damage of each count.
    """

    axes: tuple[str, ...]
    widths: tuple[np.ndarray, ...]
    damage: tuple[np.ndarray, ...]

    @staticmethod
    def of(
        problem: UnitProblem, levels: int, around: Mapping[str, int] | None = None, reach: float = float("inf")
    ) -> Grid:
        """Choose about ``levels`` widths an axis, evenly spread.

        Args:
            problem: the problem with the allowed widths.
            levels: most widths of an axis, not counting that of ``around``.
            around: widths that the grid contains.
            reach: largest factor between a width and that of ``around``.
        """
        widths, least = [], considered(problem)
        for a in problem.scores:
            allowed = problem.choices(a)
            allowed = allowed[allowed >= least[a]]
            if around:
                near = (allowed >= around[a] / reach - 1) & (allowed <= around[a] * reach + 1)
                allowed = np.union1d(allowed[near], [around[a]])
            if len(allowed) > levels:
                picked = allowed[np.unique(np.linspace(0, len(allowed) - 1, levels).round().astype(int))]
                allowed = np.union1d(picked, [around[a]]) if around else picked
            widths.append(allowed.astype(np.int64))
        damage = tuple(problem.curve(a)[w] for a, w in zip(problem.scores, widths, strict=True))
        return Grid(tuple(problem.scores), tuple(widths), damage)

    def counts(self, levels: Mapping[int, int]) -> dict[str, int]:
        """Return axis → width for a level of every axis."""
        return {a: int(self.widths[i][levels[i]]) for i, a in enumerate(self.axes)}


def mix(problem: UnitProblem, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """Return weights of the price `FIELDS`, and the budget of the weighted price.

    A single limit stays as it is. For several, Σ_j w_j · price_j / limit_j ≤ 1 holds wherever all of them do.

    Shapes: weights (limits,), summing to one → (FIELDS,), int64 or, where several limits are mixed, float64.
    """
    fields = np.zeros(len(FIELDS), np.int64 if len(problem.limits) == 1 else float)
    if len(problem.limits) == 1:
        limit = problem.limits[0]
        fields[FIELDS.index(METRICS[limit.metric])] = 1
        return fields, limit.value
    for weight, limit in zip(weights, problem.limits, strict=True):
        fields[FIELDS.index(METRICS[limit.metric])] += weight * SCALE / max(1, limit.value)
    return fields, SCALE


def tables(problem: UnitProblem, grid: Grid, fields: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """Return the price on the grid: Σ over scopes of a table with one dim for each axis of the scope, rounded up.

    Shapes: scope (i, j, …) → (widths of i, widths of j, …), int64.
    """
    polynomial = problem.polynomial
    prices = {}
    for scope, rows in polynomial.scopes().items():
        shape = [len(grid.widths[i]) for i in scope]
        total = np.zeros(shape, fields.dtype)
        for row in rows:
            value = (polynomial.coefficients[row] * fields).sum()
            for i in polynomial.powers[row]:
                if i < len(grid.axes):
                    place = scope.index(int(i))
                    value = value * grid.widths[i].reshape([-1 if d == place else 1 for d in range(len(scope))])
            total = total + value
        prices[scope] = np.ceil(total).astype(np.int64) if fields.dtype.kind == "f" else total
    return prices


def best_weights(problem: UnitProblem, amounts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Move the weights of the limits towards those that were overspent: w_j ← w_j · (spent_j / limit_j)², normed."""
    spent = np.array([amounts[FIELDS.index(METRICS[limit.metric])] / max(1, limit.value) for limit in problem.limits])
    moved = weights * np.maximum(spent, 1e-9) ** 2
    return np.asarray(np.maximum(moved / moved.sum(), 1e-6))
