"""Integrated: a list of methods one after another under one budget, each scored on the network so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits
from prunus.criteria import Calibration, collect_evidence, comparable_scores, criterion_of, damage_curves
from prunus.errors import BudgetError
from prunus.foundation.defaults import DEFAULTS
from prunus.masks import contracted_dims, top_masks, window_masks
from prunus.masks.window_option import window_of
from prunus.methods.branch_scores import GATE, branch_scores, branch_words
from prunus.methods.depth import shallower
from prunus.methods.fine_tuning import in_rounds
from prunus.methods.integrated_parts import ACTIVATION, DEFAULT, Part, canonical_parts, shares_of
from prunus.methods.masked_copy import live_axes, masked_copy
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import METHODS, method
from prunus.methods.reduction import SLACK, Reduction, droppable, savings, whole
from prunus.methods.redundancy import alike_units, without_twins
from prunus.methods.weights import MAGNITUDE, maskable, weight_scores
from prunus.plans import Decision, Plan

_BATCH = 32
_ISOMORPHIC = "isomorphic"


@dataclass(slots=True)
class _State:
    """The network so far: dropped branches, kept units, masks, and the decisions that led to them."""

    reduction: Reduction
    keep: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def analysis(self) -> Analysis:
        return self.reduction.analysis

    @property
    def spent(self) -> int:
        return self.reduction.spent_with(self.keep)

    def drop(self, reduction: Reduction, reasons: Mapping[str, str]) -> None:
        """Take over a smaller network; units of axes that went with its branches are no decisions any more."""
        self.decisions += [
            Decision(b.id, "block", b.params, b.params, reasons[b.id]) for b in reduction.dropped if b.id in reasons
        ]
        self.reduction, live = reduction, set(live_axes(reduction))
        self.keep = {axis: mask for axis, mask in self.keep.items() if axis in live}
        self.decisions = [d for d in self.decisions if d.level != "unit" or d.node in live]

    def narrow(self, keep: Mapping[str, np.ndarray], reason: str) -> None:
        """Take over narrower axes; an axis that several methods narrow has one decision with the reason of each."""
        for axis, mask in keep.items():
            before = self.keep.get(axis, np.ones(len(mask), bool))
            removed = int(before.sum() - mask.sum())
            if not mask.any() or not removed:
                continue
            earlier = [d.reason for d in self.decisions if d.node == axis]
            why = "; ".join([*earlier, f"{removed} {reason}" if earlier else reason])
            self.decisions = [d for d in self.decisions if d.node != axis]
            self.decisions.append(Decision(axis, "unit", int((~mask).sum()), len(mask), why))
        self.keep = {axis: mask for axis, mask in keep.items() if axis not in self.reduction.keep and not mask.all()}


@method(
    "integrated",
    "hierarchical",
    "several methods one after another under one budget: fine-tuning, structured and activation pruning",
    options=("methods",),
)
def integrated(analysis: Analysis, limits: Limits, *, methods: Any = DEFAULTS.methods) -> Plan:
    """Prune with a list of methods in a row, the budget divided between them by their shares.

    A method of share s keeps kept^s of what it finds; the shares add up to 1, and the last method meets the budget, so
    a later one saves what an earlier one could not: with r the shares that are left, it goes down to
    spent^(1 − s/r) · limit^(s/r). Each is scored on the network that those before it leave. By default fine-tuning
    pruning in rounds, structured pruning (twins of other blocks, then units like others) and activation pruning (least
    mean |a|) save equal ratios. ``["depth", "sensitivity", "importance-weighted"]`` drops branches by the true loss,
    units by E[Σ(∂L/∂a)²], and masks weights by E[g²]·w².

    Source: own.

    Args:
        analysis: the network.
        limits: limits of the analysis's metric; under MACs and time no weights are masked, because zeros save none.
        methods: the methods, see `canonical_parts`; none are the default.

    Raises:
        OptionError: an unknown method, share or criterion.
        BudgetError: the methods cannot save enough.
    """
    parts = canonical_parts(methods or DEFAULT)
    able = [part for part in parts if analysis.masks_save or part.kind != "weights"]
    limit, state = limits[0], _State(whole(analysis))
    if not able:
        raise BudgetError(
            f"Budget {limit.metric} ≤ {limit.shown()} is out of reach of masks: zeros change neither MACs nor time. "
            "Name a method of branches or units too."
        )
    shares = shares_of(able) if len(able) == len(parts) else _again(shares_of(parts), parts, able)
    for number, part in enumerate(able):
        last = number == len(able) - 1
        exponent = shares[number] / sum(shares[number:])
        target = limit.value if last else int(state.spent ** (1 - exponent) * limit.value**exponent)
        if state.spent <= target:
            continue
        _take(state, part, Limit(limit.metric, target), last=last)
    if not state.masks and state.spent > limit.value:
        _narrow_by(state, MAGNITUDE, "uniform", limit, "lowest magnitude; the methods left more than the budget")
    settings = {"method": "integrated", "methods": [part.plain() for part in parts]}
    return make_plan(
        analysis.coupling,
        {**state.reduction.keep, **state.keep},
        state.reduction.drops,
        masks=state.masks,
        decisions=state.decisions,
        settings=settings,
        cost=analysis.cost,
    )


def _again(shares: Sequence[float], parts: Sequence[Part], able: Sequence[Part]) -> list[float]:
    """Return the shares of the methods that save something of the metric, scaled to 1."""
    left = [share for share, part in zip(shares, parts, strict=True) if part in able]
    return [share / sum(left) for share in left]


def _take(state: _State, part: Part, limit: Limit, *, last: bool) -> None:
    """Carry out one method; where it cannot reach its own limit, the next one goes on from here."""
    try:
        if part.kind == "branches":
            state.drop(*_branches(state, part, limit.value))
        elif part.kind == "alike":
            state.drop(*without_twins(state.analysis, limit.value, start=state.reduction, keep=state.keep))
            if state.spent > limit.value:
                scores = alike_units(state.reduction, state.keep)
                _fit(state, scores, limit, _ISOMORPHIC, "most alike to others of the axis")
        elif part.kind == "rounds":
            reason = "lowest {} in rounds of pruning and training"
            criterion = part.criterion or "sensitivity"
            keep = in_rounds(state.reduction, state.keep, limit, criterion, live_axes(state.reduction))
            state.narrow(keep, reason.format(criterion))
        elif part.kind == "units":
            criterion, allocator = _of_units(part)
            _narrow_by(state, criterion, allocator, limit, f"lowest {criterion} of what the methods before left")
        else:
            _mask(state, part, limit)
    except BudgetError:
        if last:
            raise


def _branches(state: _State, part: Part, limit: int) -> tuple[Reduction, dict[str, str]]:
    if part.name == "depth":
        return shallower(state.analysis, limit, part.criterion, start=state.reduction, keep=state.keep)
    reduction, reasons, name = state.reduction, dict[str, str](), part.criterion or GATE
    branches = reduction.left(droppable(state.analysis))
    worth = branch_scores(reduction, branches, name, state.keep) if branches else {}
    saves = savings(state.analysis, branches)
    for branch in sorted(branches, key=lambda b: (worth[b.id] / max(1, saves[b.id]), b.id)):
        if reduction.spent_with(state.keep) <= limit:
            break
        smaller = reduction.without(branch) if branch in reduction.left(branches) else None
        if smaller is not None and smaller.spent_with(state.keep) >= (1 - SLACK) * limit:
            reduction = smaller
            reasons[branch.id] = f"low {branch_words(name)} {worth[branch.id]:.3g} for what it spends"
    return reduction, reasons


def _of_units(part: Part) -> tuple[str, str]:
    """Return criterion and allocator of a method of units."""
    if part.name == ACTIVATION:
        return part.criterion or "mean-activation", part.allocator or "uniform"
    own = METHODS.get(part.name).scored_by or MAGNITUDE
    return part.criterion or own, part.allocator or (_ISOMORPHIC if part.name == "unit-wise" else "uniform")


def _narrow_by(state: _State, criterion: str, allocator: str, limit: Limit, reason: str) -> None:
    """Remove the units of lowest score, measured on a copy of the network so far."""
    analysis = state.analysis
    model, _ = masked_copy(state.reduction, state.keep)
    calibration = Calibration(model, analysis.coupling, list(_batches(analysis)), analysis.loss, analysis.seed)
    scores = criterion_of(criterion)(collect_evidence(criterion, calibration))
    live = {axis: scores[axis].numpy() for axis in live_axes(state.reduction)}
    damage = None
    if allocator not in ("uniform", _ISOMORPHIC):
        live, damage = comparable_scores(live), damage_curves(analysis.coupling, live, criterion)
    _fit(state, live, limit, allocator, reason, damage)


def _batches(analysis: Analysis) -> Any:
    return analysis.calibration.batches(_BATCH) if analysis.has_data else ()


def _fit(
    state: _State,
    scores: Mapping[str, np.ndarray],
    limit: Limit,
    allocator: str,
    reason: str,
    damage: Mapping[str, np.ndarray] | None = None,
) -> None:
    keep = state.analysis.fit(
        scores,
        limit,
        cost=state.reduction.cost,
        base={**state.keep, **state.reduction.keep},
        allocator=allocator,
        damage=damage,
    )
    state.narrow(keep, reason)


def _mask(state: _State, part: Part, limit: Limit) -> None:
    """Mask weights of the network so far; a second method of weights chooses among those that the first left."""
    analysis, names = state.analysis, list(maskable(state.analysis))
    chosen = METHODS.get(part.name)
    criterion = part.criterion or chosen.scored_by or MAGNITUDE
    model, _ = masked_copy(state.reduction, state.keep)
    scores = dict(weight_scores(analysis, model.requires_grad_(), names, criterion)) if names else {}
    for name, mask in state.masks.items():
        kept = torch.from_numpy(mask).to(scores[name].device)
        least = min(float(s.min()) for s in scores.values()) - 1.0
        scores[name] = scores[name].masked_fill(~kept, least)
    window: Any = window_of(part.window) if part.window is not None else chosen.window
    dims = contracted_dims(analysis.model)

    def choose(left: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
        if window is None:
            return top_masks(left, keep_count=count)
        return window_masks(left, window, keep_count=count, input_dims=dims)

    masks = masks_left(state.reduction, state.keep, scores, limit, choose)
    what = f"lowest {criterion}" if window is None else f"window of low mean {criterion}"
    state.decisions = [d for d in state.decisions if d.level != "weight"] + [
        Decision(name, "weight", int((~mask).sum()), mask.size, f"{what} of what the methods before left")
        for name, mask in masks.items()
    ]
    state.masks = masks
