"""The tree as a knapsack: the widths of each part with their costs, and the blocks that may be dropped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.budget.knapsack_tree import Group, Leaf, Solution
from prunus.budget.limits import METRICS
from prunus.cost.price import CostModel, Term
from prunus.plans import Cost
from prunus.tree.layers import find_layers, price_of
from prunus.tree.levels import Tree, TreeNode

LEVELS = 16


@dataclass(frozen=True, slots=True)
class TreeChoice:
    """The solution of a tree.

    Attributes:
        counts: axis id → number of units that stay, for axes outside dropped blocks.
        dropped: ids of the dropped branches.
        damage: the predicted damage.
        amount: upper bound of the price, in the metric of the budget.
    """

    counts: Mapping[str, int]
    dropped: tuple[str, ...]
    damage: float
    amount: int


@dataclass(frozen=True, slots=True)
class ChoiceTree:
    """The additive model of a tree: solve ``root`` with `solve_tree`, read the answer with `read`.

    The cost of the weights that write an axis is their cost where this axis alone keeps k units; a dropped block costs
    nothing. So the model is an upper bound of the true price, and exact where inputs stay whole. The width of an axis
    that several parts write is chosen at the node that holds all of them.
    """

    root: Group
    tree: Tree
    widths: Mapping[str, np.ndarray]

    @staticmethod
    def of(
        tree: Tree,
        cost: CostModel,
        damage: Mapping[str, np.ndarray],
        drops: Mapping[str, float],
        metric: str = "params",
    ) -> ChoiceTree:
        """Build the model.

        Args:
            tree: from `grow_tree`.
            cost: the exact price of the same network.
            damage: axis id → damage of keeping 0, 1, … all units; axes that are not named stay whole.
            drops: branch id → damage of dropping it; branches that are not named stay.
            metric: metric of the budget: params, macs or bytes.
        """
        layers = {node.module: node.id for node in tree.at("layer")}
        written: dict[str, list[Term]] = {}
        places: dict[str, list[list[str]]] = {}
        at: dict[str, list[Leaf]] = {}
        for layer in find_layers(cost):
            fixed = 0
            for units in layer.units:
                if units.axis in damage:
                    written.setdefault(units.axis, []).extend(units.terms)
                    places.setdefault(units.axis, []).extend([layers[layer.path].split("/")] * bool(units.terms))
                else:
                    fixed += _spent(units.price, metric)
            if fixed:
                name = layers[layer.path]
                at.setdefault(name, []).append(Leaf(f"{name}/fixed", np.array([fixed]), np.zeros(1)))
        widths = {axis: _grid(len(damage[axis]) - 1) for axis in written}
        for axis, terms in written.items():
            spent = [sum(_spent(price_of(cost, t, {axis: int(k)}), metric) for t in terms) for k in widths[axis]]
            # A prefix of lists of names; commonpath takes strings only.
            meet = "/".join(os.path.commonprefix(places[axis]))  # noqa: RUF071
            leaf = Leaf(axis, np.array(spent, np.int64), np.asarray(damage[axis], float)[widths[axis]])
            at.setdefault(meet, []).append(leaf)
        return ChoiceTree(_group(tree, tree.root, at, drops), tree, widths)

    def read(self, solution: Solution) -> TreeChoice:
        """Translate the answer of `solve_tree`."""
        counts = {
            axis: int(self.widths[axis][choice]) for axis, choice in solution.choice.items() if axis in self.widths
        }
        dropped = tuple(self.tree.node(name).branch for name in solution.dropped)
        return TreeChoice(counts, dropped, solution.damage, solution.cost)


def _spent(price: Cost, metric: str) -> int:
    return int(getattr(price, METRICS[metric]))


def _grid(size: int) -> np.ndarray:
    return np.unique(np.linspace(1, size, min(size, LEVELS)).round().astype(np.int64))


def _group(tree: Tree, node: TreeNode, at: Mapping[str, list[Leaf]], drops: Mapping[str, float]) -> Group:
    inner = (_group(tree, child, at, drops) for child in tree.children(node.id) if child.level != "unit")
    drop = (0, float(drops[node.branch])) if node.branch in drops else None
    return Group(node.id, (*at.get(node.id, ()), *inner), drop)
