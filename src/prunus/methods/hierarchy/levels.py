"""One level of the hierarchical procedure at a time: blocks, units, windows and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from prunus.budget import Bound, Limit
from prunus.criteria import comparable_scores, damage_curves
from prunus.criteria.lamp import lamp_scores
from prunus.errors import OptionError
from prunus.graph.recorder import named_tensors
from prunus.masks import Tile, contracted_dims
from prunus.methods.hierarchy.assignment import Assignment, Place
from prunus.methods.hierarchy.choices import Chooser
from prunus.methods.hierarchy.groups import selected
from prunus.methods.hierarchy.settings import BLOCKS, KEEP, REMOVE, UNITS, WEIGHTS, WINDOWS
from prunus.methods.hierarchy.state import State
from prunus.methods.hierarchy.values import GRADIENT, UNIT_CRITERIA, WEIGHT, WEIGHT_CRITERIA, connection_scores
from prunus.methods.hierarchy.weight_counts import Part, counts_of, mask_of
from prunus.methods.join_importance import Gates
from prunus.methods.masked_copy import live_axes
from prunus.methods.modular import exchanged, greedy
from prunus.methods.reduction import Reduction, droppable
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import maskable, weights_that_stay
from prunus.plans import Decision
from prunus.surgery.tensors import slice_tensors

LAMP, SIZE, DAMAGE = "lamp", "size", "damage"
"""Rankings of weights over the network: by LAMP scores of |w|, by |w| itself, or by E[g²]·w²."""
WINDOW = Tile(4, 4)


def drop_blocks(state: State, assignment: Assignment, limit: int | None) -> State:
    """Drop the blocks that settings name, then others by gate importance until ``limit`` of the metric is left."""
    analysis = state.analysis
    branches = {branch.id: branch for branch in droppable(analysis)}
    if not branches:
        return state
    chosen = {name: f"removed by {place.pattern!r}" for name, place in assignment.removed.items()}
    wanted = any(place for place, _ in assignment.rated) or limit is not None
    importance = Gates(analysis).importance(state.reduction) if wanted else {}
    worth = {b.id: float(sum(importance[edge] for edge in b.edges)) for b in branches.values()} if wanted else {}
    for place, inside in assignment.rated:
        count = round((place.setting.rate or 0.0) * len(inside))
        for branch in sorted(inside, key=lambda b: (worth[b.id], b.id))[:count]:
            chosen[branch.id] = f"rate {place.setting.rate:g} of {place.pattern!r}, least gate importance"
    reduction = Reduction.of(analysis, [branches[name] for name in chosen]) if chosen else state.reduction
    if reduction is None:
        reduction = state.reduction
    if limit is not None and reduction.spent > limit:
        named = {name for _, inside in assignment.rated for name in (b.id for b in inside)}
        free = [b for b in branches.values() if b.id not in named and assignment.may_go(b)]
        reduction = (
            exchanged(greedy(reduction, free, worth, limit), free, worth, limit)
            if not chosen
            else greedy(reduction, free, worth, limit)
        )
    decisions = [
        Decision(b.id, "block", b.params, b.params, chosen.get(b.id, "least gate importance for what it spends"))
        for b in reduction.dropped
    ]
    keep = {**state.keep, **reduction.keep}
    return replace(state, reduction=reduction, keep=keep, decisions=(*state.decisions, *decisions))


def cut_units(
    state: State, assignment: Assignment, chooser: Chooser, limit: int | None, bias: Mapping[str, float] | None = None
) -> State:
    """Remove units: those of fixed nodes by their rate, the others until ``limit`` of the metric is left.

    Args:
        state: the network so far.
        assignment: the settings of nodes.
        chooser: chooses the criterion of every axis.
        limit: amount of the metric that may stay; None removes only what settings fix.
        bias: axis id → factor of its predicted damage.
    """
    analysis, reduction = state.analysis, state.reduction
    axes = live_axes(reduction)
    bounds, forced = _bounds(state, assignment, axes)
    if not axes or (limit is None and not bounds):
        return state
    left = state.left()
    choices = chooser.units(left, axes)
    scores: dict[str, np.ndarray] = {}
    for criterion in dict.fromkeys(choice.criterion for choice in choices.values()):
        found = unit_scores(left, criterion)
        scores |= {axis: found[axis] for axis in axes if choices[axis].criterion == criterion}
    scores = {axis: _forced_last(values, *forced.get(axis, (None, None))) for axis, values in scores.items()}
    common = UNIT_CRITERIA[GRADIENT if analysis.has_data else WEIGHT]
    predicted = unit_scores(left, common)
    damage = damage_curves(analysis.coupling, {axis: predicted[axis] for axis in axes}, common)
    damage = {axis: curve * (bias or {}).get(axis, 1.0) for axis, curve in damage.items()}
    amount = state.spent() if limit is None else limit
    keep = replace(analysis, bounds={**analysis.bounds, **bounds}).fit(
        comparable_scores(scores),
        Limit(analysis.metric, amount),
        cost=reduction.cost,
        base=state.keep,
        allocator="knapsack" if analysis.has_data else "uniform",
        damage=damage,
    )
    decisions = [
        Decision(axis, "unit", int((~mask).sum()), len(mask), _unit_reason(axis, assignment, choices))
        for axis, mask in keep.items()
        if mask.any() and not mask.all()
    ]
    return replace(state, keep=keep, decisions=(*state.decisions, *decisions))


def _unit_reason(axis: str, assignment: Assignment, choices: Mapping[str, Any]) -> str:
    place, choice = assignment.axes.get(axis), choices[axis]
    group = next((g for g in assignment.groups if axis in g.members), None)
    rated = place is not None and place.setting.kind == UNITS and place.setting.rate is not None
    given = f"rate {place.setting.rate:g} of {place.pattern!r}, " if rated and place is not None else ""
    named = f"{group.setting.method or 'rate'} {group.pattern!r}, " if group is not None else ""
    return f"{named}{given}least {choice.criterion} ({choice.why})"


def _bounds(
    state: State, assignment: Assignment, axes: list[str]
) -> tuple[dict[str, Bound], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return the widths that settings fix, and axis id → units that go and units that stay in any case."""
    coupling = state.analysis.coupling
    forced = _forced_parts(state, assignment, UNITS, {axis: coupling.axes[axis].size for axis in axes})
    bounds: dict[str, Bound] = {}
    for axis in axes:
        size, place = coupling.axes[axis].size, assignment.axes.get(axis)
        least = max(1, coupling.axes[axis].least)
        kind = place.setting.kind if place is not None else UNITS
        if kind in (KEEP, WEIGHTS, WINDOWS):
            bounds[axis] = Bound(frozen=True)
        elif place is not None and kind == UNITS and place.setting.rate is not None:
            bounds[axis] = Bound(forced=min(size, max(least, size - round(place.setting.rate * size))))
        if axis in forced and not bounds.get(axis, Bound()).frozen:
            gone, stays = (int(part.sum()) for part in forced[axis])
            earlier = bounds.get(axis, Bound()).forced
            if earlier is None:
                ceiling = max(least, size - gone)
                bounds[axis] = Bound(floor=min(max(1, stays), ceiling), ceiling=ceiling)
    return bounds, forced


def _forced_parts(
    state: State, assignment: Assignment, part: str, sizes: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return axis or weight → what goes in any case, and what stays, as the groups of settings say."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place in assignment.groups:
        members = tuple(name for name in place.members if name in sizes) if place.group.part == part else ()
        held = selected(state.dense, place.group, members) if members else {}
        for name, inside in held.items():
            gone, stays = found.get(name, (np.zeros(inside.shape, bool), np.zeros(inside.shape, bool)))
            if place.setting.kind == KEEP:
                stays = stays | inside
            else:
                gone = gone | _share_of(state, place, name, inside)
            if (gone & stays).any():
                raise OptionError(
                    f"nodes: {place.pattern!r} is given two methods: {int((gone & stays).sum())} of its {part} in "
                    f"{name!r} are to go by one group and to stay by another; narrow one of the two."
                )
            found[name] = (gone, stays)
    return found


def _share_of(state: State, place: Any, name: str, inside: np.ndarray) -> np.ndarray:
    """Return the parts of a group that go: all of it, or the share of its rate with the least scores."""
    rate = place.setting.rate
    if place.setting.kind == REMOVE or rate is None:
        return inside
    criterion = place.setting.scored_by
    if place.group.part == UNITS:
        scores = unit_scores(state.dense, criterion or UNIT_CRITERIA[place.group.value])[name]
    else:
        criterion = criterion or WEIGHT_CRITERIA[place.group.value]
        scores = connection_scores(state.dense, (name,), criterion)[name].double().cpu().numpy()
    order = np.argsort(np.where(inside, scores, np.inf).reshape(-1), kind="stable")[: round(rate * int(inside.sum()))]
    gone = np.zeros(inside.size, bool)
    gone[order] = True
    return gone.reshape(inside.shape)


def _forced_last(scores: np.ndarray, gone: np.ndarray | None, stays: np.ndarray | None) -> np.ndarray:
    """Return the scores with forced units above and below all others."""
    if gone is None or stays is None:
        return scores
    values = np.asarray(scores, float)
    lifted = values - values.min(initial=0.0)
    top = float(lifted.max(initial=0.0)) + 1.0
    return np.where(gone, 0.0, np.where(stays, 3 * top, lifted + top * 1e-3))


def mask_weights(
    state: State,
    assignment: Assignment,
    chooser: Chooser,
    limit: Limit,
    ranking: str,
    *,
    windows: float = 0.0,
    bias: Mapping[str, float] | None = None,
) -> State:
    """Mask weights until the limit holds exactly: those of fixed nodes by their rate, the others in one ranking.

    Args:
        state: the network so far; weights that it masks stay masked.
        assignment: the settings of nodes.
        chooser: chooses the criterion of every weight.
        limit: limit of parameters, or of bytes in packed storage.
        ranking: ranks the weights of all tensors: `LAMP`, `SIZE` or `DAMAGE`.
        bias: weight name → factor of its worth in the ranking.
        windows: where above 0, this share of what has to go goes in windows of `WINDOW`, and nothing else does.
    """
    analysis, reduction = state.analysis, state.reduction
    bare = reduction.as_plan(state.keep)
    live = {node.tensor for node in reduction.graph.nodes if node.tensor}
    names = [name for name in maskable(analysis) if name in live]
    fixed = [n for n in names if n in assignment.weights and _fixes(assignment.weights[n])]
    groups = any(group.group.part == WEIGHTS for group in assignment.groups)
    if not names or (limit.holds(bare.after) and not fixed and not groups):
        return state
    parts, choices = _parts(state, assignment, chooser, names, ranking)
    total = sum(part.order.size for part in parts.values())
    sizes = {name: torch.empty(part.order.shape, device="meta", dtype=torch.float32) for name, part in parts.items()}
    count = total if limit.holds(bare.after) else weights_that_stay(limit, bare.after, _like(analysis, sizes))
    if bias:
        parts = {n: replace(p, priority=p.priority * bias.get(n, 1.0)) for n, p in parts.items()}
    if windows:
        parts = {n: replace(p, window=WINDOW) if p.fixed is None and p.window is None else p for n, p in parts.items()}
        count = total - int(windows * (total - count))
    numbers = counts_of(parts, count, f"{limit.metric} ≤ {limit.shown()}")
    masks = dict(state.masks)
    decisions = [d for d in state.decisions if d.level not in ("weight", "window")]
    for name, part in parts.items():
        mask = mask_of(part, numbers[name])
        alive = np.ones((), bool)
        for expr in analysis.coupling.tensors[name]:
            alive = np.logical_and.outer(alive, analysis.coupling.mask(expr, bare.axes))
        full = np.ones(alive.shape, bool)
        full[alive] = mask.reshape(-1)
        if not full.all():
            masks[name] = full
            level = "window" if part.window is not None else "weight"
            reason = _weight_reason(name, assignment, choices)
            decisions.append(Decision(name, level, int((~full).sum()), full.size, reason))
    return replace(state, masks=masks, decisions=tuple(decisions))


def _like(analysis: Any, shapes: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors without values of the given shapes, with the element types of the weights."""
    weights = named_tensors(analysis.model)
    return {name: torch.empty(s.shape, device="meta", dtype=weights[name].dtype) for name, s in shapes.items()}


def _fixes(place: Place) -> bool:
    kind, rate = place.setting.kind, place.setting.rate
    return kind in (WEIGHTS, WINDOWS) and rate is not None


def _weight_reason(name: str, assignment: Assignment, choices: Mapping[str, Any]) -> str:
    place, choice = assignment.weights.get(name), choices[name]
    group = next((g for g in assignment.groups if name in g.members), None)
    rated = place is not None and _fixes(place)
    given = f"rate {place.setting.rate:g} of {place.pattern!r}, " if rated and place is not None else ""
    named = f"{group.setting.method or 'rate'} {group.pattern!r}, " if group is not None else ""
    return f"{named}{given}least {choice.criterion} ({choice.why})"


def _parts(
    state: State, assignment: Assignment, chooser: Chooser, names: list[str], ranking: str
) -> tuple[dict[str, Part], Mapping[str, Any]]:
    """Return weight name → what decides about it, in the shapes of the network that is left; and the choices."""
    analysis, bare = state.analysis, state.reduction.as_plan(state.keep)
    left = state.left()
    choices = chooser.weights(left, names)
    own: dict[str, torch.Tensor] = {}
    for criterion in dict.fromkeys(choice.criterion for choice in choices.values()):
        chosen = [name for name in names if choices[name].criterion == criterion]
        own |= connection_scores(left, chosen, criterion)
    by_damage = ranking == DAMAGE and analysis.has_data
    common = connection_scores(left, names, WEIGHT_CRITERIA[GRADIENT if by_damage else WEIGHT])
    forced = _forced_parts(state, assignment, WEIGHTS, {name: own[name].shape for name in names})
    coupling = analysis.coupling
    order, worth = (slice_tensors({n: s[n].cpu() for n in names}, coupling, bare) for s in (own, common))
    dims = contracted_dims(analysis.model)
    parts = {}
    for name in names:
        gone, stays = (
            slice_tensors({name: torch.from_numpy(flags)}, coupling, bare)[name].numpy()
            for flags in forced.get(name, (np.zeros(own[name].shape, bool), np.zeros(own[name].shape, bool)))
        )
        masked = state.masks.get(name)
        if masked is not None:
            gone = gone | ~slice_tensors({name: torch.from_numpy(masked)}, coupling, bare)[name].numpy()
        values = worth[name].double().numpy()
        priority = values if by_damage or ranking == SIZE else lamp_scores(values)
        place = assignment.weights.get(name)
        fixed, window = _fixed_count(place, values.size), None
        if place is not None and place.setting.kind == WINDOWS:
            window = place.setting.window
        parts[name] = Part(order[name].double().numpy(), priority, gone, stays, fixed, window, dims.get(name, 1))
    return parts, choices


def _fixed_count(place: Place | None, size: int) -> int | None:
    """Return the number of weights that a setting leaves; all for nodes whose weights are not masked."""
    if place is None:
        return None
    if place.setting.kind in (UNITS, BLOCKS, KEEP):
        return size
    rate = place.setting.rate
    return None if rate is None else max(1, size - round(rate * size))
