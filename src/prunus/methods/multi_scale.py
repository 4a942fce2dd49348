"""Multi-scale: blocks, then units, then weights, all under one budget, which is divided between them by the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits
from prunus.criteria import damage_curves
from prunus.errors import BudgetError
from prunus.masks import absolute_masks
from prunus.methods.join_importance import Gates
from prunus.methods.masked_copy import live_axes
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import method
from prunus.methods.modular import exchanged, greedy
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.methods.scored_units import unit_scores
from prunus.methods.true_loss import loss_of
from prunus.methods.weights import maskable
from prunus.plans import Decision, Plan
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, finetune_, reestimate_statistics_

BLOCK_SHARES = (1.0, 0.75)
UNIT_SHARES = (1.0, 0.7, 0.45)
_STEPS = 12
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


@method("multi-scale", "hierarchical", "blocks, then units, then weights, one budget divided by the loss")
def multi_scale(analysis: Analysis, limits: Limits) -> Plan:
    """Prune blocks, units and weights, and choose the division of the budget on the selection split.

    Each candidate is cut, its norm statistics are re-estimated, it is trained for a few steps on calibration data, and
    its loss on the selection split decides: a short recovery makes candidates comparable.

    Source: own.
    """
    candidates = splits(analysis.kept(limits[0]), analysis.masks_save) if limits[0].value > 0 else []
    best: tuple[float, Plan] | None = None
    analysis.progress.start("multi-scale", len(candidates))
    for split in candidates:
        try:
            plan = plan_split(analysis, split, limits[0])
        except BudgetError:
            plan = None
        if plan is not None:
            loss = _selection_loss(analysis, plan)
            if best is None or loss < best[0]:
                best = (loss, plan)
        analysis.progress.advance("multi-scale")
    analysis.progress.finish("multi-scale")
    if best is None:
        raise BudgetError(
            f"Budget {limits[0].metric} ≤ {limits[0].shown()}: no division of the budget over blocks, units and "
            "weights fits this network. Keep more."
        )
    return best[1]


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


def _selection_loss(analysis: Analysis, plan: Plan) -> float:
    small = deep_copy(analysis.cut(plan))
    reestimate_statistics_(small, analysis.calibration.batches(64))
    options = TrainingOptions(_STEPS, lr=1e-3, loss=analysis.loss)
    finetune_(small, analysis.calibration, options, masks=sliced_masks(plan) or None, seed=analysis.seed)
    return loss_of(analysis, small)
