"""The role: given scores and prices, say how many units each axis keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prunus.budget.limits import Limit
from prunus.measurement.price import CostModel
from prunus.plans import Cost
from prunus.registry import Registry


@dataclass(frozen=True, slots=True)
class UnitProblem:
    """Scores of the units that may go, the price of what stays, and the limits.

    Attributes:
        cost: the exact price as a function of kept counts.
        scores: axis id → score of every unit that may go, best first.
        limits: all must hold.
        floor: axis id → the least number of units to keep.
        fixed: counts of axes that are not up for choice.
    """

    cost: CostModel
    scores: Mapping[str, np.ndarray]
    limits: tuple[Limit, ...]
    floor: Mapping[str, int]
    fixed: Mapping[str, int]

    def price(self, counts: Mapping[str, int]) -> Cost:
        """Return the exact cost of kept counts."""
        return self.cost.price({**self.fixed, **counts})

    def fits(self, counts: Mapping[str, int]) -> bool:
        """Whether kept counts meet every limit."""
        cost = self.price(counts)
        return all(limit.holds(cost) for limit in self.limits)


class Allocator(Protocol):
    """Return axis id → kept count, within the limits; `UnitProblem.floor` is known to fit."""

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Divide the budget."""
        ...


ALLOCATORS: Registry[Allocator] = Registry("allocator")
