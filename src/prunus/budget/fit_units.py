"""The allocators, enrolled in the order of the tables, and one call from scores and limits to the units that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunus.budget.allocation import divide
from prunus.budget.allocator import ALLOCATORS, Allocator
from prunus.budget.bounds import Bound
from prunus.budget.knapsack import knapsack
from prunus.budget.lagrangian import lagrangian
from prunus.budget.limits import Limit
from prunus.budget.problem import unit_problem
from prunus.budget.proportional import erk, uniform
from prunus.budget.ranking import global_rank, isomorphic, lamp
from prunus.budget.viterbi import viterbi
from prunus.cost.price import CostModel

for _name, _allocator in (
    ("erk", erk),
    ("global", global_rank),
    ("isomorphic", isomorphic),
    ("lagrangian", lagrangian),
    ("knapsack", knapsack),
    ("lamp", lamp),
    ("uniform", uniform),
    ("viterbi", viterbi),
):
    ALLOCATORS.register(_name)(_allocator)


def fit_units(
    cost: CostModel,
    scores: Mapping[str, np.ndarray],
    limit: Limit | Sequence[Limit],
    *,
    allocator: str | Allocator = "uniform",
    base: Mapping[str, np.ndarray] | None = None,
    floor: int = 1,
    bounds: Mapping[str, Bound] | None = None,
    damage: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Choose the units that stay so that every limit holds.

    Args:
        cost: price model of the network.
        scores: axis id → one score a unit; only these axes are pruned. Higher stays; ties keep the lower index.
        limit: one limit or several.
        allocator: ``uniform``, ``global``, any enrolled name, or an allocator itself.
        base: axis id → units that are not removed yet (bool); emptied axes stay empty.
        floor: least number of units of an axis; `Axis.least` may be larger.
        bounds: axis id → floor, ceiling, multiple, frozen or forced width of that axis.
        damage: axis id → predicted rise of the loss when it alone keeps 0, 1, … of its units, the best first, for
            allocators that weigh damage against price; by default the sums of the scores of the removed units.

    Returns:
        Axis id → bool keep mask, for every axis in ``scores`` or ``base``.

    Raises:
        BudgetError: even at the floor a limit does not hold; names the least reachable and the axis that prevents less.
        OptionError: an unknown allocator, or bounds that leave an axis no width.
        SelectorError: a bound on an axis that does not exist.
    """
    problem = unit_problem(cost, scores, limit, base=base, floor=floor, bounds=bounds, damage=damage)
    return problem.masks(divide(problem, allocator))
