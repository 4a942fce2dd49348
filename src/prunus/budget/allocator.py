"""The role of an allocator: scores, prices and limits in, the number of units that each axis keeps out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from prunus.budget.bounds import Bound
from prunus.budget.limits import Limit
from prunus.budget.polynomial import PricePolynomial
from prunus.cost.price import CostModel
from prunus.foundation.registry import Registry
from prunus.plans import Cost

T = TypeVar("T")
_FREE = Bound()
_OF_LIMITS = ("even", "considered")


@dataclass(frozen=True, slots=True)
class UnitProblem:
    """The problem of an allocator: scores of the removable units, the price of the kept units, and the limits.

    Attributes:
        cost: the exact price as a function of kept counts.
        scores: axis id → score of every removable unit, best first.
        limits: limits that must all hold.
        floor: axis id → the least number of units to keep.
        fixed: counts of axes that are not up for choice.
        bounds: axis id → what else is asked of it.
        damage: axis id → measured loss increase when it alone keeps 0, 1, … all units; what is not measured is taken
            as the sum of the scores of the units that go.
        least_of_even: allocators that trade damage for price give no axis less than this share of an even division,
            where it fits: scores compare the units of one axis well and axes with each other badly, and damages do
            not add up when nearly all of a layer goes. 0 trusts them.
        units: axis id → index of every unit that may go, best first, as in ``scores``.
        present: axis id → units that are there at all (bool), for axes of which some are gone already.
        groups: axis id → axes that lose units together, itself among them, with the units that each keeps for a step;
            its counts, scores and damage are those of steps. The other axes of a group have no entry of their own.
        rest: axis id → the units of an axis of a group that stay beside those of its steps.
        allowed: axis id → the counts that it may keep, ascending, where ties say more than its bound.
        memo: what was derived from the other fields once.
    """

    cost: CostModel
    scores: Mapping[str, np.ndarray]
    limits: tuple[Limit, ...]
    floor: Mapping[str, int]
    fixed: Mapping[str, int]
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    damage: Mapping[str, np.ndarray] = field(default_factory=dict)
    least_of_even: float = 0.5
    units: Mapping[str, np.ndarray] = field(default_factory=dict)
    present: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rest: Mapping[str, int] = field(default_factory=dict)
    allowed: Mapping[str, np.ndarray] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def polynomial(self) -> PricePolynomial:
        """The price as a function of the widths that the allocator chooses."""
        return self.once(
            "polynomial", lambda: PricePolynomial.of(self.cost, list(self.scores), self.fixed, self.groups, self.rest)
        )

    @property
    def least(self) -> dict[str, int]:
        """The fewest units that each axis may keep."""
        return {a: self._span(a)[0] for a in self.scores}

    @property
    def most(self) -> dict[str, int]:
        """The most units that each axis may keep."""
        return {a: self._span(a)[1] for a in self.scores}

    def choices(self, axis: str) -> np.ndarray:
        """Return the counts that an axis may keep, ascending."""
        if axis in self.allowed:
            return self.allowed[axis]
        bound, size = self.bounds.get(axis, _FREE), len(self.scores[axis])
        return self.once(f"choices:{axis}", lambda: bound.counts(axis, size, self.floor.get(axis, 1)))

    def curve(self, axis: str) -> np.ndarray:
        """Return the predicted damage of keeping 0, 1, … all units of an axis.

        d(k) = Σ_{u > k} s_u with the units ordered best first, unless ``damage`` gives it.

        Shapes: → (units + 1,)
        """
        if axis in self.damage:
            return np.asarray(self.damage[axis], float)
        scores = np.asarray(self.scores[axis], float)
        return self.once(f"curve:{axis}", lambda: np.append(np.cumsum(scores[::-1])[::-1], 0.0))

    def predicted(self, counts: Mapping[str, int]) -> float:
        """Return the predicted damage of kept counts under the additive model: Σ_a d_a(n_a)."""
        return float(sum(self.curve(a)[n] for a, n in counts.items()))

    def snap(self, axis: str, count: int) -> int:
        """Return the largest allowed count up to ``count``; the least one where none is."""
        low, high, dense = self._span(axis)
        if dense or count <= low:
            return min(max(count, low), high)
        allowed = self.choices(axis)
        return int(allowed[int(np.searchsorted(allowed, count, side="right")) - 1])

    def above(self, axis: str, count: int, step: int = 1) -> int | None:
        """Return the first allowed count at least ``step`` above ``count``, the largest one, or None at the top."""
        low, high, dense = self._span(axis)
        if count >= high:
            return None
        if dense or count + step >= high:
            return min(max(count + step, low), high)
        allowed = self.choices(axis)
        return int(allowed[int(np.searchsorted(allowed, count + step))])

    def _span(self, axis: str) -> tuple[int, int, bool]:
        """Return the least and the most units, and True if every number between is allowed."""
        if (known := self.memo.get(f"span:{axis}")) is None:
            allowed = self.choices(axis)
            low, high = int(allowed[0]), int(allowed[-1])
            known = self.memo[f"span:{axis}"] = (low, high, high - low + 1 == len(allowed))
        span: tuple[int, int, bool] = known
        return span

    def price(self, counts: Mapping[str, int]) -> Cost:
        """Return the exact price of kept counts; axes that are not named keep all units."""
        return self.polynomial.price({**{a: len(s) for a, s in self.scores.items()}, **counts})

    def fits(self, counts: Mapping[str, int]) -> bool:
        """Return True if kept counts meet every limit."""
        cost = self.price(counts)
        return all(limit.holds(cost) for limit in self.limits)

    def masks(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return the keep masks from kept counts, of all axes that are chosen or have lost units already."""
        keep, kept = dict(self.present), self.kept(counts)
        for a, index in self.units.items():
            keep[a] = np.zeros(self.cost.coupling.axis(a).size, bool)
            keep[a][index[: kept[a]]] = True
        return keep

    def kept(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the units that every axis keeps, tied ones too, from the counts of those that are up for choice."""
        return {
            member: self.rest.get(member, 0) + units * n
            for a, n in counts.items()
            for member, units in self.groups.get(a, {a: 1}).items()
        }

    def at_steps(self, axis: str, units: int, curve: np.ndarray) -> np.ndarray:
        """Return a curve over the kept units of an axis of a group at its steps: step t keeps rest + units · t."""
        return curve[self.rest.get(axis, 0) :: units]

    def under(self, limits: tuple[Limit, ...]) -> UnitProblem:
        """Return the same problem with other limits; cached results that do not depend on them are kept."""
        other = replace(self, limits=limits)
        other.memo.update({k: v for k, v in self.memo.items() if k not in _OF_LIMITS})
        return other

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the cached result of this name; compute it with ``make`` the first time."""
        if name not in self.memo:
            self.memo[name] = make()
        result: T = self.memo[name]
        return result


class Allocator(Protocol):
    """Map a problem to axis id → kept count, within the limits; `UnitProblem.least` always fits."""

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Divide the budget."""
        ...


ALLOCATORS: Registry[Allocator] = Registry("allocator", kind=Callable)
