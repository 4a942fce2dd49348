"""The pruning of one stage at its level (blocks, units, weights), on the result of earlier stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.masks import top_masks
from prunus.methods.depth import shallower
from prunus.methods.join_importance import Gates
from prunus.methods.masked_copy import live_axes, masked_copy
from prunus.methods.masks_after_units import masks_left
from prunus.methods.modular import exchanged, greedy
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.methods.redundancy import without_twins
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import maskable, weight_scores
from prunus.pipeline.stage_state import State
from prunus.plans import Decision

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage


def _modular(analysis: Analysis, limit: int) -> tuple[Reduction, dict[str, str]]:
    start, branches = whole(analysis), droppable(analysis)
    importance = Gates(analysis).importance(start) if branches else {}
    worth = {branch.id: sum(importance[edge] for edge in branch.edges) for branch in branches}
    found = exchanged(greedy(start, branches, worth, limit), branches, worth, limit)
    return found, {
        branch.id: f"gate importance {worth[branch.id]:.3g}, little for its size" for branch in found.dropped
    }


_BLOCK_WAYS: Mapping[str, Callable[[Analysis, int], tuple[Reduction, dict[str, str]]]] = {
    "depth": shallower,
    "modular": _modular,
    "redundancy": without_twins,
}


def _blocks(state: State, stage: Stage, limit: Limit) -> State:
    reduction, reasons = _BLOCK_WAYS[stage.way](state.analysis, limit.value)
    decisions = [Decision(b.id, "block", b.params, b.params, reasons[b.id]) for b in reduction.dropped]
    return replace(state, reduction=reduction, keep=reduction.keep, decisions=(*state.decisions, *decisions))


def _units(state: State, stage: Stage, limit: Limit) -> State:
    """Score units on the network that is left, and remove those of lowest score too."""
    reduction, analysis = state.reduction, state.analysis
    scores = unit_scores(analysis.with_model(network_left(state)), stage.way)
    live = {axis: scores[axis] for axis in live_axes(reduction)}
    keep = analysis.fit(live, limit, cost=reduction.cost, base=state.keep, allocator=stage.allocator or "uniform")
    reason = f"lowest {stage.way} of what earlier stages left"
    decisions = [d for d in state.decisions if d.level != "unit"]
    decisions += [
        Decision(axis, "unit", int((~mask).sum()), len(mask), reason)
        for axis, mask in keep.items()
        if mask.any() and not mask.all()
    ]
    return replace(state, keep=keep, decisions=tuple(decisions))


def _weights(state: State, stage: Stage, limit: Limit) -> State:
    """Mask the weights of lowest score that are left; weights masked by an earlier stage stay masked."""
    analysis = state.analysis
    names = list(maskable(analysis))
    scores = dict(weight_scores(analysis, network_left(state), names, stage.way))
    below = min((float(score.min()) for score in scores.values()), default=0.0) - 1.0
    for name, mask in state.masks.items():
        scores[name] = scores[name].masked_fill(~torch.from_numpy(mask).to(scores[name].device), below)
    masks = masks_left(state.reduction, state.keep, scores, limit, lambda left, n: top_masks(left, keep_count=n))
    decisions = [d for d in state.decisions if d.level != "weight"]
    decisions += [
        Decision(name, "weight", int((~mask).sum()), mask.size, f"lowest {stage.way} of what earlier stages left")
        for name, mask in masks.items()
    ]
    return replace(state, masks=masks, decisions=tuple(decisions))


def network_left(state: State) -> nn.Module:
    """Return the network with everything that is removed at zero."""
    model, _ = masked_copy(state.reduction, state.keep)
    with torch.no_grad():
        for name, mask in state.masks.items():
            parameter = model.get_parameter(name)
            parameter.masked_fill_(~torch.from_numpy(mask).to(parameter.device), 0)
    return model.requires_grad_()


LEVELS: Mapping[str, Callable[[State, Stage, Limit], State]] = {"blocks": _blocks, "units": _units, "weights": _weights}
