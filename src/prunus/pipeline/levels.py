"""The nodes of the tree at every level, each with its cost, time, sensitivity and redundancy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from prunus.analysis import BATCH, Analysis
from prunus.errors import BudgetError, PlanError
from prunus.foundation.progress import Progress
from prunus.graph.recorder import named_tensors
from prunus.measurement.timing import time_ops
from prunus.methods.hierarchy.groups import GroupRow, group_rows, parse_grouping
from prunus.methods.layer_wise import masked_loss
from prunus.methods.reduction import Reduction, droppable
from prunus.methods.scored_units import unit_scores
from prunus.methods.true_loss import selection_loss
from prunus.tree import Tree, TreeNode, grow_tree
from prunus.tree.addresses import NETWORK


@dataclass(frozen=True, slots=True)
class LevelRow:
    """One node of the tree.

    Attributes:
        id, level, kind: as in the tree.
        units: the number of units, for nodes that are units.
        params, macs_forward, macs_backward, param_bytes: exact; MACs for one sample. Children add up to their parent.
        milliseconds: eager time of the ops inside, for the captured samples; None for units, which have no own ops.
        sensitivity: rise of the loss with the branch bypassed, else with the weaker half of the units at zero; None
            where neither is possible, and without data.
        redundancy: 1 − (Σσ²)² / (n Σσ⁴) over its weight matrices, weighted by parameters: 0 where all directions are
            equally strong, near 1 where few directions dominate.
        groups: the groups of its units and weights by weight, gradient and activation; empty unless requested.
    """

    id: str
    level: str
    kind: str
    units: int
    params: int
    macs_forward: int
    macs_backward: int
    param_bytes: int
    milliseconds: float | None
    sensitivity: float | None
    redundancy: float | None
    groups: tuple[GroupRow, ...] = ()


def evaluate_levels(
    analysis: Analysis,
    *,
    stages: str = "feature",
    count: int | None = None,
    groups: str | None = None,
    progress: Progress | None = None,
) -> list[LevelRow]:
    """Measure every node of a network's tree, outside before inside.

    The loss is measured on the selection split for branches, on the calibration split for units. The test
    split is not used.

    Args:
        analysis: the dense network and its data.
        stages: the rule that divides stages: ``feature``, ``depth`` or ``connections``.
        count: the number of stages, for the latter two.
        groups: ``quantiles:4`` or ``kmeans:3`` groups the units and weights of every layer by weight, gradient and
            activation; without data by weight alone.
        progress: reports every node.

    Units: milliseconds; the loss in its own units.
    """
    grouping = parse_grouping(groups)
    progress = progress or analysis.progress
    tree = grow_tree(analysis.coupling, stages, count)
    times = _times(analysis, tree, progress)
    redundant = _Redundancy(analysis)
    rises = _Rises(analysis, tree) if analysis.has_data else None
    nodes = list(tree.below())
    progress.start("levels", len(nodes))
    rows = []
    for node in nodes:
        milliseconds = None if node.level == "unit" else times.get(node.id, 0.0) * 1e3
        rise = rises.of(node) if rises is not None else None
        rows.append(_row(node, milliseconds, rise, redundant.of(tree, node)))
        progress.advance("levels")
    progress.finish("levels")
    grouped = group_rows(analysis, tree, grouping) if grouping is not None else {}
    return [replace(row, groups=grouped.get(row.id, ())) for row in rows]


def _row(node: TreeNode, milliseconds: float | None, sensitivity: float | None, redundancy: float | None) -> LevelRow:
    price = node.price
    return LevelRow(
        id=node.id or NETWORK,
        level=node.level,
        kind=node.kind,
        units=node.units,
        params=price.params,
        macs_forward=price.macs_forward,
        macs_backward=price.macs_backward,
        param_bytes=price.param_bytes,
        milliseconds=milliseconds,
        sensitivity=sensitivity,
        redundancy=redundancy,
    )


def _times(analysis: Analysis, tree: Tree, progress: Progress) -> dict[str, float]:
    """Add up the time of ops by node: an op belongs to the innermost node whose module contains the op's module."""
    graph = analysis.coupling.graph
    found = time_ops(analysis.model, analysis.coupling, analysis.example_inputs, [], threads=1, progress=progress)
    homes = {node.module: node for node in tree.below() if node.module and node.level != "unit"}
    seconds: dict[str, float] = {}
    for name, spent in zip(found.nodes, found.seconds[0], strict=True):
        parts = graph.module_of(graph.node(name)).split(".")
        paths = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
        home = next((homes[path] for path in paths if path in homes), tree.root)
        while True:
            seconds[home.id] = seconds.get(home.id, 0.0) + float(spent)
            if not home.id:
                break
            home = tree.node(home.parent)
    return seconds


class _Rises:
    """The rise of the loss without a node; every bypassed branch and halved set of axes is measured once."""

    def __init__(self, analysis: Analysis, tree: Tree) -> None:
        self.analysis, self.tree = analysis, tree
        self.scores = unit_scores(analysis, "magnitude")
        self.batches = list(analysis.calibration.batches(BATCH))
        self.base = masked_loss(analysis, {}, self.batches)
        self.dense = selection_loss(analysis, None)
        self.branches = {branch.id: branch for branch in droppable(analysis)}
        self.known: dict[frozenset[str], float] = {}

    def of(self, node: TreeNode) -> float | None:
        """Return the rise, or None where nothing of the node can be removed."""
        if node.branch in self.branches:
            reduction = Reduction.of(self.analysis, [self.branches[node.branch]])
            if reduction is not None:
                try:
                    return selection_loss(self.analysis, reduction.as_plan()) - self.dense
                except (BudgetError, PlanError):
                    return None
        parts = [node] if node.axis else self.tree.below(node.id)
        axes = frozenset(p.axis for p in parts if p.axis in self.scores and p.kind != "inputs")
        if not axes:
            return None
        if axes not in self.known:
            keep = {axis: _better_half(self.scores[axis]) for axis in axes}
            self.known[axes] = masked_loss(self.analysis, keep, self.batches) - self.base
        return self.known[axes]


def _better_half(scores: np.ndarray) -> np.ndarray:
    keep = np.zeros(len(scores), bool)
    keep[np.argsort(-scores, kind="stable")[: max(1, len(scores) // 2)]] = True
    return keep


class _Redundancy:
    """The redundancy of weight matrices by their singular values."""

    def __init__(self, analysis: Analysis) -> None:
        self.tensors = named_tensors(analysis.model)
        self.known: dict[str, float] = {}

    def of(self, tree: Tree, node: TreeNode) -> float | None:
        """Return the mean over the weight matrices inside a node, weighted by their parameters."""
        if node.level == "unit":
            return None
        matrices = dict(_matrices(tree, node))
        total = sum(matrices.values())
        return sum(self._matrix(name) * size for name, size in matrices.items()) / total if total else None

    def _matrix(self, name: str) -> float:
        if name not in self.known:
            values = self.tensors[name].detach().float()
            squares = torch.linalg.svdvals(values.reshape(len(values), -1)).double() ** 2
            top = float((squares**2).sum())
            spread = float(squares.sum()) ** 2 / top if top > 0 else 0.0
            self.known[name] = 1 - spread / len(squares)
        return self.known[name]


def _matrices(tree: Tree, node: TreeNode) -> Iterator[tuple[str, int]]:
    for part in tree.below(node.id):
        shapes: Mapping[str, tuple[int, ...]] = part.shapes
        yield from ((name, int(np.prod(shape))) for name, shape in shapes.items() if len(shape) > 1 and min(shape) > 0)
