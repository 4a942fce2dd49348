"""The knapsack on a tree: frontiers of price and damage are joined from the leaves to the root.

Any node may have the option of being dropped. The nodes are visited in one pass, so that a node of n options costs n
times the length of the frontier, whatever the shape of the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.budget.frontier import CAP, Frontier, join, survivors, thin
from prunus.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Leaf:
    """A choice between options: option i has the integer price ``cost[i]`` and the damage ``damage[i]``."""

    id: str
    cost: np.ndarray
    damage: np.ndarray


@dataclass(frozen=True, slots=True)
class Group:
    """Parts that are decided one by one; ``drop`` is the (price, damage) of dropping all of them."""

    id: str
    parts: tuple[Leaf | Group, ...]
    drop: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Solution:
    """The best choice within a budget.

    Attributes:
        choice: leaf → index of its option; leaves of dropped groups are not named.
        dropped: the dropped groups, outermost only.
        cost, damage: price and damage of the choice.
        frontier: price and damage under this budget and lower ones.
    """

    choice: Mapping[str, int]
    dropped: tuple[str, ...]
    cost: int
    damage: float
    frontier: Frontier


@dataclass(frozen=True, slots=True)
class _Step:
    """The origin of each point of a frontier: the point before, and the option, −1 where the node is dropped."""

    node: Leaf | Group
    origin: np.ndarray
    option: np.ndarray
    inner: tuple[_Step, ...] = ()


def solve_tree(root: Leaf | Group, budget: int | None = None, *, cap: int = CAP) -> Solution:
    """Minimise Σ damage over the choices whose Σ cost is within the budget.

    The solution is the optimum while no frontier is longer than ``cap`` (``solution.frontier.exact``); beyond that,
    points are left out, and the solution still holds the budget.

    Raises:
        BudgetError: even the cheapest choice is above the budget; names the part that needs most.
    """
    frontier, step = _extend(Frontier.start(), root, 0, budget, cap)
    if not len(frontier):
        name, share = _dearest(root)
        raise BudgetError(
            f"Budget ≤ {budget:,} cannot be met: the least reachable is {_least(root):,}, of which {share:,} lie in "
            f"{name!r}. Raise the budget."
        )
    best = len(frontier) - 1
    choice: dict[str, int] = {}
    dropped: list[str] = []
    _trace(step, best, choice, dropped)
    return Solution(choice, tuple(reversed(dropped)), int(frontier.cost[best]), float(frontier.damage[best]), frontier)


def _extend(before: Frontier, node: Leaf | Group, later: int, budget: int | None, cap: int) -> tuple[Frontier, _Step]:
    """Join a node to a frontier; ``later`` is the least price of the nodes after it."""
    room = None if budget is None else budget - later
    if isinstance(node, Leaf):
        after, origin, option = join(before, node.cost, node.damage, room, cap)
        return after, _Step(node, origin, option)
    least = [_least(part) for part in node.parts]
    inner, steps = before, []
    for i, part in enumerate(node.parts):
        inner, step = _extend(inner, part, later + sum(least[i + 1 :]), budget, cap)
        steps.append(step)
    if node.drop is None:
        everything = np.arange(len(inner))
        return inner, _Step(node, everything, np.zeros(len(inner), np.int64), tuple(steps))
    cost = np.concatenate([inner.cost, before.cost + node.drop[0]])
    damage = np.concatenate([inner.damage, before.damage + node.drop[1]])
    index = survivors(cost, damage, room)
    kept = thin(cost[index], cap)
    after = Frontier(cost[index[kept]], damage[index[kept]], inner.exact and before.exact and len(kept) == len(index))
    index = index[kept]
    dropped = index >= len(inner)
    return after, _Step(node, np.where(dropped, index - len(inner), index), -dropped.astype(np.int64), tuple(steps))


def _trace(step: _Step, point: int, choice: dict[str, int], dropped: list[str]) -> int:
    """Record the options that lead to a point; return the point before the node of this step."""
    if isinstance(step.node, Leaf):
        choice[step.node.id] = int(step.option[point])
        return int(step.origin[point])
    origin = int(step.origin[point])
    if step.option[point] < 0:
        dropped.append(step.node.id)
        return origin
    for inner in reversed(step.inner):
        origin = _trace(inner, origin, choice, dropped)
    return origin


def _least(node: Leaf | Group) -> int:
    if isinstance(node, Leaf):
        return int(node.cost.min())
    whole = sum(_least(part) for part in node.parts)
    return whole if node.drop is None else min(whole, node.drop[0])


def _dearest(node: Leaf | Group) -> tuple[str, int]:
    """Return the leaf, or the dropped group, with the largest least price."""
    if isinstance(node, Leaf) or (node.drop is not None and _least(node) == node.drop[0]):
        return node.id, _least(node)
    return max((_dearest(part) for part in node.parts), key=lambda found: found[1], default=(node.id, 0))
