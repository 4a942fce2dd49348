"""An allocation: the kept counts of an allocator with their price and predicted damage, and those of other budgets."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from prunus.budget.allocator import ALLOCATORS, Allocator, UnitProblem
from prunus.budget.frontier import survivors
from prunus.errors import BudgetError, OptionError
from prunus.foundation.registry import title_of
from prunus.foundation.user_code import UserFunction
from prunus.plans import Cost

TrueLoss = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True, slots=True)
class Point:
    """One budget of a frontier: the amount of the first limit's metric, and the predicted damage."""

    amount: int
    damage: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """A division of the budget between axes.

    Attributes:
        allocator: name of the allocator.
        counts: axis id → number of units that stay.
        damage: predicted damage, Σ over axes of the damage when each alone is cut.
        price: exact price of the counts.
        frontier: price and damage under other budgets and this one, by ascending amount and descending damage.
        true_damage: loss with everything cut, less the dense loss; None where it was not measured.
    """

    allocator: str
    counts: Mapping[str, int]
    damage: float
    price: Cost
    frontier: tuple[Point, ...] = ()
    true_damage: float | None = None

    @property
    def ratio(self) -> float | None:
        """R = true damage / Σ single damages; near one where damages add up, None where either is unknown."""
        if self.true_damage is None or self.damage <= 0:
            return None
        return self.true_damage / self.damage

    def __str__(self) -> str:
        measured = "" if self.ratio is None else f", true {self.true_damage:.4g}, R = {self.ratio:.2f}"
        lines = [
            f"{self.allocator}: {self.price.params:,} params, {self.price.macs_forward:,} MACs, "
            f"{self.price.param_bytes:,} bytes; predicted damage {self.damage:.4g}{measured}"
        ]
        width = max(map(len, self.counts), default=0)
        lines += [f"  {axis.ljust(width)}  {count:>6,}" for axis, count in self.counts.items()]
        return "\n".join(lines)


def divide(problem: UnitProblem, allocator: str | Allocator) -> dict[str, int]:
    """Return the kept counts of an allocator, rounded down to widths that the bounds allow.

    Raises:
        OptionError: the allocator's answer is not a kept count for every axis.
        BudgetError: its counts break a limit.
    """
    member = ALLOCATORS.get(allocator) if isinstance(allocator, str) else _own(allocator)
    counts: Any = member(problem)
    if not isinstance(counts, Mapping) or not all(isinstance(counts.get(a), Integral) for a in problem.scores):
        got = counts if not isinstance(counts, Mapping) else {a: counts.get(a) for a in problem.scores}
        raise OptionError(
            f"allocator {title_of(allocator)!r} returned {reprlib.repr(got)}; allowed: axis id → kept count, for every "
            "axis of problem.scores."
        )
    widths = {a: problem.snap(a, int(counts[a])) for a in problem.scores}
    if not problem.fits(widths):
        price = problem.price(widths)
        broken = next(limit for limit in problem.limits if not limit.holds(price))
        raise BudgetError(
            f"allocator {title_of(allocator)!r} leaves {broken.metric} at {broken.of(price):,}, and the budget is "
            f"{broken.shown()}; it must stay within every limit of problem.limits (problem.least does)."
        )
    return widths


def _own(allocator: Allocator) -> Allocator:
    return UserFunction("allocator", title_of(allocator), allocator)


def allocate(
    problem: UnitProblem,
    allocator: str | Allocator = "uniform",
    *,
    points: int = 0,
    loss: TrueLoss | None = None,
) -> Allocation:
    """Divide a budget between axes and predict the damage.

    Args:
        problem: result of `unit_problem`, so that the least widths fit.
        allocator: an enrolled name, or an allocator itself.
        points: number of other budgets of the frontier, evenly spread from the least reachable to the dense network.
        loss: kept counts → true loss; called twice, for the ratio R.
    """
    counts = divide(problem, allocator)
    true = None if loss is None else loss(counts) - loss({a: len(s) for a, s in problem.scores.items()})
    return Allocation(
        allocator=title_of(allocator),
        counts=counts,
        damage=problem.predicted(counts),
        price=problem.price(counts),
        frontier=_frontier(problem, allocator, counts, points),
        true_damage=true,
    )


def _frontier(
    problem: UnitProblem, allocator: str | Allocator, counts: Mapping[str, int], points: int
) -> tuple[Point, ...]:
    """Solve the same problem for other values of its first limit; dominated points are left out."""
    first = problem.limits[0]
    low, high = first.of(problem.price(problem.least)), first.of(problem.price(problem.most))
    solutions = [counts]
    for value in np.linspace(low, high, points).astype(np.int64) if points else ():
        other = problem.under((dataclasses.replace(first, value=int(value)), *problem.limits[1:]))
        if other.fits(other.least):
            solutions.append(divide(other, allocator))
    amounts = np.array([first.of(problem.price(n)) for n in solutions], np.int64)
    damages = np.array([problem.predicted(n) for n in solutions])
    return tuple(Point(int(amounts[i]), float(damages[i])) for i in survivors(amounts, damages))
