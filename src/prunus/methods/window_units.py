"""Runs of consecutive units as one choice: boundaries of whole runs for every allocator and every count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from prunus.budget import ALLOCATORS, UnitProblem
from prunus.budget.allocator import Allocator
from prunus.errors import BudgetError, OptionError


def run_means(scores: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """Return the score of every unit as the mean of its run of ``length`` consecutive units; the last may be shorter.

    Equal scores keep the lower index, so a ranking of the result takes runs one after the other.

    Example:
        >>> run_means({"a": np.array([1.0, 3.0, 5.0])}, 2)["a"].tolist()
        [2.0, 2.0, 5.0]
    """
    means = {}
    for axis, values in scores.items():
        starts = np.arange(0, len(values), length)
        sizes = np.diff(np.append(starts, len(values)))
        sums = np.add.reduceat(np.asarray(values, float), starts) if len(values) else np.zeros(0)
        means[axis] = np.repeat(sums / sizes, sizes)
    return means


def runs_in(mask: np.ndarray, length: int) -> int:
    """Return the number of runs that hold a unit of a mask."""
    return len(np.unique(np.flatnonzero(mask) // length))


def with_runs(problem: UnitProblem, length: int) -> UnitProblem:
    """Return the problem in which every axis keeps whole runs; its scores must be `run_means`.

    An axis of a group that loses units together keeps the steps at which every axis of the group keeps whole runs, or
    all of them.

    Raises:
        OptionError: a bound that no number of whole runs meets.
    """
    if length == 1:
        return problem
    allowed = {axis: _whole(problem, axis, length) for axis in problem.scores}
    return replace(problem, allowed={**problem.allowed, **allowed})


def _whole(problem: UnitProblem, axis: str, length: int) -> np.ndarray:
    choices, steps = problem.choices(axis), np.arange(len(problem.scores[axis]) + 1)
    for member, units in problem.groups.get(axis, {axis: 1}).items():
        order = problem.units[member]
        run = order // length
        ends = np.append(np.flatnonzero(np.diff(run)) + 1, len(order))
        steps = steps[np.isin(problem.rest.get(member, 0) + steps * units, np.append(0, ends))]
    whole = choices[np.isin(choices, steps)]
    if not len(whole):
        raise OptionError(
            f"Axis {axis!r} of {len(problem.scores[axis])} units may keep {_shown(choices)} of them by its bounds, and "
            f"no number of whole runs of {length} is among them. Loosen the bound, or take runs of another length."
        )
    return np.asarray(whole)


def _shown(choices: np.ndarray) -> str:
    return str(int(choices[0])) if len(choices) == 1 else f"{int(choices[0])} to {int(choices[-1])}"


@dataclass(frozen=True, slots=True)
class InRuns:
    """An allocator that divides a budget among whole runs of units."""

    allocator: str | Allocator
    length: int

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Divide the budget; the least is one run an axis."""
        member = ALLOCATORS.get(self.allocator) if isinstance(self.allocator, str) else self.allocator
        return dict(member(in_reach(with_runs(problem, self.length))))


def in_reach(problem: UnitProblem) -> UnitProblem:
    """Return the problem if its least counts meet the limits.

    Raises:
        BudgetError: they do not.
    """
    if problem.fits(problem.least):
        return problem
    price = problem.price(problem.least)
    broken = next(limit for limit in problem.limits if not limit.holds(price))
    raise BudgetError(
        f"Budget {broken.metric} ≤ {broken.shown()} cannot be met by whole runs of units: one run an axis is "
        f"{broken.shown(broken.of(price))}. Raise the budget, or take shorter runs."
    )
