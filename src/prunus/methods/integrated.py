"""Integrated: prune blocks, units and weights one after another under one budget, each scored on the network so far."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits
from prunus.criteria import CRITERIA, activation_statistics, collect_gradients
from prunus.masks import top_masks
from prunus.methods.depth import shallower
from prunus.methods.masked_copy import live_axes, masked_copy
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import method
from prunus.methods.reduction import Reduction
from prunus.methods.weights import maskable
from prunus.plans import Decision, Plan

_BATCH = 32


@method(
    "integrated", "hierarchical", "blocks by loss, neurons by sensitivity, weights by importance, one after another"
)
def integrated(analysis: Analysis, limits: Limits) -> Plan:
    """Prune with three methods in a row, the budget divided between them in equal ratios.

    The first of three stages keeps the cube root of the kept share, the second the square root of the remaining share;
    the last meets the budget exactly, so a later stage saves what an earlier one could not. Residual branches are
    dropped by the true loss; then units by E[Σ(∂L/∂a)²], measured without these branches; then weights are masked by
    E[g²]·w², measured without these units.

    Source: own.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric; under MACs and time no weights are masked, because zeros save none.

    Raises:
        BudgetError: units or weights cannot save enough.
    """
    limit, kept = limits[0], analysis.kept(limits[0])
    stages = 3 if analysis.masks_save else 2
    reduction, reasons = shallower(analysis, analysis.limit(kept ** (1 / stages)).value)
    shared = int(math.sqrt(reduction.spent * limit.value)) if analysis.masks_save else limit.value
    keep = _units(reduction, Limit(limit.metric, shared))
    masks = _weights(reduction, keep, limit) if analysis.masks_save else {}
    decisions = [Decision(b.id, "block", b.params, b.params, reasons[b.id]) for b in reduction.dropped]
    decisions += [
        Decision(axis, "unit", int((~mask).sum()), len(mask), "least sensitive of what the blocks left")
        for axis, mask in keep.items()
        if mask.any() and not mask.all()
    ]
    decisions += [
        Decision(name, "weight", int((~mask).sum()), mask.size, "lowest E[g²]·w² of what blocks and units left")
        for name, mask in masks.items()
    ]
    return make_plan(
        analysis.coupling,
        keep,
        reduction.drops,
        masks=masks,
        decisions=decisions,
        settings={"method": "integrated"},
        cost=analysis.cost,
    )


def _units(reduction: Reduction, limit: Limit) -> dict[str, np.ndarray]:
    analysis = reduction.analysis
    model, _ = masked_copy(reduction, {})
    statistics = activation_statistics(model, analysis.coupling, analysis.calibration.batches(_BATCH), analysis.loss)
    scores = {axis: (statistics.sensitivity or {})[axis].numpy() for axis in live_axes(reduction)}
    return analysis.fit(scores, limit, cost=reduction.cost, base=reduction.keep)


def _weights(reduction: Reduction, keep: Mapping[str, np.ndarray], limit: Limit) -> dict[str, np.ndarray]:
    analysis = reduction.analysis
    model, _ = masked_copy(reduction, keep)
    scores = _importance(model.requires_grad_(), analysis) if maskable(analysis) else {}
    return masks_left(reduction, keep, scores, limit, lambda left, count: top_masks(left, keep_count=count))


def _importance(model: nn.Module, analysis: Analysis) -> Mapping[str, Tensor]:
    evidence = collect_gradients(
        model, analysis.calibration.batches(_BATCH), analysis.loss, list(maskable(analysis)), seed=analysis.seed
    )
    return CRITERIA.get("importance-weighted")(evidence)
