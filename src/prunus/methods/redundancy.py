"""Redundancy: of blocks or units with nearly the same outputs or weights, remove one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prunus.analysis import Analysis
from prunus.budget import Limits
from prunus.methods.masked_copy import live_axes
from prunus.methods.masked_run import Replay
from prunus.methods.method import method
from prunus.methods.reduction import SLACK, Reduction, droppable, tensors_of, whole
from prunus.methods.similarity import Alignment, distinctness, unit_gram
from prunus.plans import Decision, Plan
from prunus.tree import Branch

ALIKE = 0.9
"""Least linear CKA of the outputs of two blocks that count as redundant."""


@method(
    "redundancy", "structure", "drop blocks whose outputs align with a sibling's, then units like another", merges=True
)
def redundancy(analysis: Analysis, limits: Limits) -> Plan:
    """Remove blocks and units that are similar to others, the most similar first.

    Blocks first: of two branches of the same form whose outputs on calibration data have linear CKA ≥ 0.9
    (`Alignment`), the one of less output energy is dropped, unless that saves more than needed. Then units: those whose
    input and output weights are most parallel to those of another unit of their axis (`distinctness`), in one ranking
    for each kind of layer, because the number of inputs shifts all cosines.

    Source: own; the alignment: Kornblith et al., "Similarity of Neural Network Representations Revisited",
    arXiv:1905.00414.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    limit = limits[0]
    reduction, reasons = without_twins(analysis, limit.value)
    decisions = [Decision(b.id, "structure", b.params, b.params, reasons[b.id]) for b in reduction.dropped]
    keep: dict[str, np.ndarray] = {}
    if reduction.spent > limit.value:
        scores = alike_units(reduction)
        keep = analysis.fit(scores, limit, cost=reduction.cost, allocator="isomorphic", base=reduction.keep)
        decisions += [
            Decision(axis, "unit", int((~mask).sum()), len(mask), _reason(scores[axis][~mask]))
            for axis, mask in keep.items()
            if axis in scores and not mask.all()
        ]
    return reduction.as_plan(keep, decisions, {"method": "redundancy"})


def without_twins(
    analysis: Analysis,
    limit: int,
    alike: float = ALIKE,
    *,
    start: Reduction | None = None,
    keep: Mapping[str, np.ndarray] | None = None,
) -> tuple[Reduction, dict[str, str]]:
    """Drop branches that align with a sibling that stays, most aligned first, while more than ``limit`` is left.

    Args:
        analysis: the network.
        limit: amount of the metric that may stay; a branch that would leave clearly less is kept.
        alike: least linear CKA of similar branches.
        start: the network so far; None is the whole one.
        keep: axis id → units that stay, where some are removed already.

    Returns:
        The reduced network, and branch id → why it was dropped.
    """
    branches = {branch.id: branch for branch in droppable(analysis)}
    pairs = _siblings(analysis, list(branches.values()))
    reduction, reasons, kept = start or whole(analysis), dict[str, str](), keep or {}
    if not pairs or reduction.spent_with(kept) <= limit:
        return reduction, reasons
    aligned = _aligned(analysis, {name: branches[name] for pair in pairs for name in pair})
    ranked = sorted(((aligned.cka(*pair), *pair) for pair in pairs), key=lambda item: (-item[0], item[1:]))
    for cka, *pair in ranked:
        there = [branch for branch in reduction.left(branches.values()) if branch.id in pair]
        if cka < alike or reduction.spent_with(kept) <= limit or len(there) < 2:
            continue
        less, more = sorted(pair, key=lambda name: (aligned.energy(name), name))
        smaller = reduction.without(branches[less])
        if smaller is not None and smaller.spent_with(kept) >= (1 - SLACK) * limit:
            reduction = smaller
            reasons[less] = f"does what {more} does: linear CKA {cka:.3f} of their outputs"
    return reduction, reasons


def _siblings(analysis: Analysis, branches: Sequence[Branch]) -> list[tuple[str, str]]:
    """Return the pairs of branches with outputs and parameters of equal shapes, neither inside the other."""
    graph = analysis.coupling.graph

    def form(branch: Branch) -> object:
        shapes = sorted(graph.tensors[name].shape for name in branch.tensors)
        return graph.meta(branch.value).shape, tuple(shapes)

    return [
        (one.id, other.id)
        for i, one in enumerate(branches)
        for other in branches[i + 1 :]
        if form(one) == form(other) and not one.holds(other) and not other.holds(one)
    ]


def _aligned(analysis: Analysis, branches: dict[str, Branch]) -> Alignment:
    alignment = Alignment()
    for values in Replay(analysis).values(analysis.calibration, {branch.value for branch in branches.values()}):
        alignment.add({name: values[branch.value] for name, branch in branches.items()})
    return alignment


def alike_units(reduction: Reduction, keep: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Score the units of the remaining axes by `distinctness` among those that are left; higher = keep.

    Args:
        reduction: the network so far.
        keep: axis id → units that stay, where some are removed already; the others score 0.
    """
    coupling = reduction.analysis.coupling
    present = {node.tensor for node in reduction.graph.nodes if node.tensor}
    weights = {
        name: value
        for name, value in tensors_of(reduction.analysis).items()
        if name in present and coupling.graph.tensors[name].kind == "parameter"
    }
    scores = {}
    for axis in live_axes(reduction):
        gram = unit_gram(coupling, coupling.axes[axis], weights)
        left = np.flatnonzero((keep or {}).get(axis, np.ones(len(gram), bool)))
        scores[axis] = np.zeros(len(gram))
        scores[axis][left] = distinctness(gram[np.ix_(left, left)])
    return scores


def _reason(scores: np.ndarray) -> str:
    return f"most alike to others of the axis: cosine {1 - float(scores.max()):.2f} or more when it went"
