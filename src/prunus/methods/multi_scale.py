"""Multi-scale: blocks, then units, then weights, all under one budget, which is divided between them by the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits
from prunus.criteria import damage_curves
from prunus.errors import BudgetError, CaptureError, PlanError
from prunus.foundation.defaults import DEFAULTS
from prunus.masks import absolute_masks
from prunus.methods.hierarchy.procedure import Procedure, plan_of
from prunus.methods.hierarchy.search import searched
from prunus.methods.hierarchy.settings import TREE_OPTIONS
from prunus.methods.hierarchy.trials import trained_loss
from prunus.methods.join_importance import Gates
from prunus.methods.masked_copy import live_axes
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import method
from prunus.methods.modular import exchanged, greedy
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import maskable
from prunus.plans import Decision, Plan

BLOCK_SHARES = (1.0, 0.75)
UNIT_SHARES = (1.0, 0.7, 0.45)
SEARCHED = 24
"""The number of assignments that are tried where options of the tree are given and no number."""
_LEAST = 0.08


@dataclass(frozen=True, slots=True)
class Split:
    """The share that each scale keeps of the network after the scale above; the product is the kept share."""

    blocks: float
    units: float
    weights: float

    def __str__(self) -> str:
        return f"blocks {self.blocks:.0%} × units {self.units:.0%} × weights {self.weights:.0%}"


def splits(kept: float, masks_save: bool = True) -> list[Split]:
    """Return the divisions of a budget that are tried; in some of them one scale saves all.

    No scale keeps less than 8 % of its input, unless blocks or units save all.

    Args:
        kept: share that may stay in total.
        masks_save: masks save something of the metric; else no weights are masked.
    """
    divisions: dict[Split, None] = {}
    for blocks in (*(share for share in BLOCK_SHARES if share > kept), kept):
        alone = kept / blocks
        for units in (*(share for share in UNIT_SHARES if share > alone), alone) if masks_save else (alone,):
            weights = min(1.0, alone / units)
            if weights >= _LEAST:
                divisions[Split(blocks, units, weights)] = None
    return list(divisions)


@method(
    "multi-scale",
    "hierarchical",
    "blocks, then units, then weights, one budget divided by the loss",
    options=("search", *TREE_OPTIONS),
)
def multi_scale(
    analysis: Analysis,
    limits: Limits,
    *,
    search: int = DEFAULTS.search,
    nodes: Any = None,
    strategy: str | None = None,
    divide: Any = None,
    optimise: Any = None,
) -> Plan:
    """Prune blocks, units and weights, and choose the division of the budget on the selection split.

    Each candidate is cut, its norm statistics are re-estimated, it is trained for a few steps on calibration data, and
    its loss on the selection split decides: a short recovery makes candidates comparable.

    Without further options the candidates are fixed divisions of the budget. With ``search`` assignments on the tree
    are tried beside them: the share of every level, and the strategy and the weight of every stage. Nodes with settings
    of their own rule the fixed divisions out.

    Source: own.

    Args:
        analysis: the network and its data.
        limits: the limit of all scales together.
        search: number of assignments on the tree that are tried; 0 tries none, or 24 beside one of the other options.
        nodes, strategy, divide, optimise: as in `prunus.methods.hierarchical`; nothing is optimised between scales.

    Raises:
        BudgetError: no division and no assignment fits.
    """
    options = (nodes, strategy, divide, optimise)
    number = search or (SEARCHED if any(option is not None for option in options) else 0)
    best = None if nodes else _best_split(analysis, limits[0])
    if number:
        procedure = Procedure.of(analysis, limits[0], *options)
        found = searched(procedure, number)
        if found is not None and (best is None or found[0] < best[0]):
            line = f"best of {number} assignments on the tree: {found[2]}; loss after a short recovery {found[0]:.4g}"
            beside = "" if best is None else f", against {best[0]:.4g} of the best fixed division"
            best = (found[0], plan_of(found[1].with_line(line + beside), "multi-scale", procedure))
    if best is None:
        raise BudgetError(
            f"Budget {limits[0].metric} ≤ {limits[0].shown()}: no division of the budget over blocks, units and "
            "weights fits this network. Keep more."
        )
    return best[1]


def _best_split(analysis: Analysis, limit: Limit) -> tuple[float, Plan] | None:
    """Return the fixed division of least loss, and its loss; None where none fits."""
    candidates = splits(analysis.kept(limit), analysis.masks_save) if limit.value > 0 else []
    best: tuple[float, Plan] | None = None
    analysis.progress.start("multi-scale", len(candidates))
    for split in candidates:
        with contextlib.suppress(BudgetError, PlanError, CaptureError):  # out of reach, or no cut of this code
            plan = plan_split(analysis, split, limit)
            loss = trained_loss(analysis, plan)
            if best is None or loss < best[0]:
                best = (loss, plan)
        analysis.progress.advance("multi-scale")
    analysis.progress.finish("multi-scale")
    return best


def plan_split(analysis: Analysis, split: Split, limit: Limit) -> Plan:
    """Plan one division: drop blocks, then units, then mask weights until exactly the limit is met.

    How many units each axis keeps is a knapsack over the damage that their sensitivities, E[Σ(∂L/∂a)²], predict.
    """
    reduction = _drop_blocks(analysis, split.blocks)
    keep = dict(reduction.keep)
    decisions = [
        Decision(b.id, "block", b.params, b.params, "least gate importance for what it spends")
        for b in reduction.dropped
    ]
    shared = analysis.limit(split.blocks * split.units) if split.weights < 1 else limit
    if reduction.spent > shared.value:
        live = set(live_axes(reduction))
        scores = {axis: s for axis, s in unit_scores(analysis, "sensitivity").items() if axis in live}
        damage = damage_curves(analysis.coupling, scores, "sensitivity")
        keep = analysis.fit(
            scores, shared, cost=reduction.cost, base=reduction.keep, allocator="knapsack", damage=damage
        )
        decisions += [
            Decision(a, "unit", int((~m).sum()), len(m), "its width by the knapsack over sensitivities")
            for a, m in keep.items()
            if m.any() and not m.all()
        ]
    masks = _masks(reduction, keep, limit) if analysis.masks_save else {}
    decisions += [Decision(n, "weight", int((~m).sum()), m.size, "|w| below the threshold") for n, m in masks.items()]
    return make_plan(
        analysis.coupling,
        keep,
        reduction.drops,
        masks=masks,
        decisions=decisions,
        settings={"method": "multi-scale", "split": str(split)},
        cost=analysis.cost,
    )


def _drop_blocks(analysis: Analysis, share: float) -> Reduction:
    """Drop branches, least gate importance per amount of the metric first, down to a share of the metric."""
    start, branches = whole(analysis), droppable(analysis)
    if share >= 1 or not branches:
        return start
    importance = Gates(analysis).importance(start)
    worth = {b.id: sum(importance[edge] for edge in b.edges) for b in branches}
    limit = analysis.limit(share).value
    return exchanged(greedy(start, branches, worth, limit), branches, worth, limit)


def _masks(reduction: Reduction, keep: Mapping[str, np.ndarray], limit: Limit) -> dict[str, np.ndarray]:
    """Mask the smallest of the remaining weights."""
    values = maskable(reduction.analysis)
    return masks_left(reduction, keep, values, limit, lambda left, count: absolute_masks(left, keep_count=count))
