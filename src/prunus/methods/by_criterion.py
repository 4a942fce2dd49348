"""A criterion with an allocator is a method: units, weights, or both under one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan, unit_decisions
from prunus.budget import ALLOCATORS, Limit, Limits
from prunus.budget.allocator import Allocator
from prunus.budget.weights import WEIGHT_ALLOCATORS, fit_weights
from prunus.criteria import (
    CriterionLike,
    comparable_scores,
    criterion_name,
    damage_curves,
    is_unit_criterion,
    is_weight_criterion,
    probes_for,
    weight_criterion_of,
)
from prunus.errors import BudgetError, OptionError
from prunus.foundation.defaults import DEFAULTS
from prunus.masks import top_masks
from prunus.methods.criterion_names import OBS, check_unit_criterion
from prunus.methods.level_scan import affordable_levels
from prunus.methods.loss_search import LossSearch
from prunus.methods.masks_after_units import masks_left
from prunus.methods.method import method
from prunus.methods.obs_units import LEVELS_MEMO, ByLevels, Level, level_decisions, unit_levels
from prunus.methods.reduction import whole
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import MAGNITUDE, maskable, masked_plan, weight_scores, weights_to_keep
from prunus.plans import Decision, Plan
from prunus.surgery.proving.random_ops import draws

UNITS = "units"
_DAMAGE = "damage of "
_UNIT_OPTIONS = ("criterion", "allocator", "search", "judge")


@method(
    UNITS,
    "neuron",
    "remove units by a criterion, the budget divided by an allocator",
    options=_UNIT_OPTIONS,
    joint=True,
    counts="units",
)
def units(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    allocator: str | Allocator | None = DEFAULTS.allocator,
    search: int = DEFAULTS.search,
    judge: str = DEFAULTS.judge,
) -> Plan:
    """Remove the units of least score with everything that is coupled to them.

    Source: own.

    Args:
        analysis: the network and its data.
        limits: limits that must all hold.
        criterion: criterion of the units; None chooses one by the data.
        allocator: allocator of the budget; None chooses one by the criterion.
        search: number of plans around that of the allocator that are evaluated by their true loss.
        judge: repair that is applied before a plan of the search is evaluated.

    Raises:
        OptionError: an unknown name, or a criterion that needs data where there are none.
        BudgetError: no unit is removable, or the limits are out of reach even with one unit an axis.
    """
    keep, decisions, settings = _unit_choice(analysis, limits, criterion, allocator, search, judge)
    return make_plan(analysis.coupling, keep, decisions=decisions, settings=settings, cost=analysis.cost)


@method(
    "weights",
    "weight",
    "mask weights by a criterion, the budget divided by an allocator",
    options=("criterion", "allocator"),
    counts="weights",
    criteria="weights",
)
def weights(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    allocator: str | None = DEFAULTS.allocator,
) -> Plan:
    """Mask the weights of least score; the network keeps its shape.

    Source: own.

    Raises:
        OptionError: an unknown criterion or allocator of weights.
        BudgetError: the parameters that cannot be masked exceed the budget.
    """
    name = criterion or MAGNITUDE
    _check_weight_names(name, allocator)
    left = maskable(analysis)
    count = weights_to_keep(analysis, left, limits)
    scores = weight_scores(analysis, analysis.user_model, list(left), name) if left else {}
    shown_name = criterion_name(name)
    plan = masked_plan(analysis, _masks(scores, count, allocator), f"lowest {shown_name}")
    return replace(plan, settings={"criterion": shown_name})


@method(
    "units-weights",
    "hierarchical",
    "units by a criterion, then weights among what is left, one budget",
    options=_UNIT_OPTIONS,
)
def units_and_weights(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    allocator: str | None = DEFAULTS.allocator,
    search: int = DEFAULTS.search,
    judge: str = DEFAULTS.judge,
) -> Plan:
    """Remove units down to the geometric mean of dense amount and limit, then mask weights until the limit holds.

    Weights are scored by the same criterion if it is a weight criterion too, else by their magnitude. Where zeros save
    nothing of the metric, only units are removed.
    Source: own.

    Raises:
        OptionError: an unknown name.
        BudgetError: masks cannot save enough.
    """
    limit, before = limits[0], analysis.cost.price()
    shared = Limit(limit.metric, int((limit.value * limit.of(before)) ** 0.5)) if analysis.masks_save else limit
    for_units = allocator if not isinstance(allocator, str) or allocator in ALLOCATORS else None
    for_weights = allocator if isinstance(allocator, str) and allocator in WEIGHT_ALLOCATORS else None
    if allocator is not None and for_units is None and for_weights is None:
        ALLOCATORS.get(allocator)
    keep, decisions, settings = _unit_choice(analysis, (shared,), criterion or MAGNITUDE, for_units, search, judge)
    own = criterion is not None and not callable(criterion) and is_weight_criterion(criterion)
    name = criterion_name(criterion) if own and criterion is not None else MAGNITUDE
    left = maskable(analysis) if analysis.masks_save else {}
    scores = weight_scores(analysis, analysis.user_model, list(left), name) if left else {}
    masks = (
        {}
        if not left
        else masks_left(whole(analysis), keep, scores, limit, lambda s, count: _masks(s, count, for_weights))
    )
    decisions += [Decision(n, "weight", int((~m).sum()), m.size, f"lowest {name}") for n, m in masks.items()]
    settings |= {"weight_criterion": name}
    return make_plan(analysis.coupling, keep, masks=masks, decisions=decisions, settings=settings, cost=analysis.cost)


def chosen_criterion(analysis: Analysis, criterion: CriterionLike | None) -> CriterionLike:
    """Return the given unit criterion; by default measured levels where data and time allow, else magnitude.

    Raises:
        OptionError: the criterion needs the captured program of a model captured in parts, or data that are not there.
    """
    check_unit_criterion(criterion)
    if criterion is None:
        measured = analysis.has_data and not analysis.parts and not analysis.opt_in and affordable_levels(analysis)
        return OBS if measured and not draws(analysis.coupling.graph) else MAGNITUDE
    if analysis.parts and (criterion == OBS or any(probe.program for probe in probes_for(criterion))):
        raise OptionError(
            f"criterion {criterion_name(criterion)!r} runs data through the captured program, and the model was "
            f"captured in parts ({', '.join(analysis.parts)}); use magnitude or taylor."
        )
    if not analysis.has_data and criterion == OBS:
        raise OptionError(f"criterion {OBS!r} needs data=batches of inputs, with or without targets; give some.")
    return criterion


def check_removable(analysis: Analysis) -> None:
    """Refuse a network without removable units.

    Raises:
        BudgetError: no unit is removable; names the reasons.
    """
    if not analysis.free_axes():
        raise BudgetError(_nothing_removable(analysis))


def stored_scores(analysis: Analysis, criterion: Any) -> dict[str, np.ndarray]:
    """Return the stored measurements of a unit criterion, for a later plan; nothing is measured here.

    Axis id → scores; for ``obs-units`` also ``damage of AXIS`` → the damage of keeping 0, 1, … units.
    """
    if criterion == OBS and LEVELS_MEMO in analysis.memo:
        levels = unit_levels(analysis)
        return {**levels.scores, **{f"{_DAMAGE}{axis}": curve for axis, curve in levels.damage.items()}}
    known = isinstance(criterion, str) and is_unit_criterion(criterion) and f"units:{criterion}" in analysis.memo
    return unit_scores(analysis, criterion) if known else {}


def restore_scores(analysis: Analysis, criterion: CriterionLike | None, stored: Mapping[str, np.ndarray]) -> None:
    """Put the result of `stored_scores` into an analysis, so that it is not measured again."""
    damage = {name.removeprefix(_DAMAGE): value for name, value in stored.items() if name.startswith(_DAMAGE)}
    scores = {name: value for name, value in stored.items() if not name.startswith(_DAMAGE)}
    if damage:
        analysis.memo[LEVELS_MEMO] = {axis: Level(scores[axis], damage[axis], []) for axis in damage}
    elif scores.keys() == set(analysis.free_axes()):
        analysis.memo[f"units:{criterion_name(criterion or MAGNITUDE)}"] = scores


def _unit_choice(
    analysis: Analysis,
    limits: Sequence[Limit],
    criterion: CriterionLike | None,
    allocator: str | Allocator | None,
    search: int,
    judge: str,
) -> tuple[dict[str, np.ndarray], list[Decision], dict[str, Any]]:
    """Return the units that stay, the decisions, and the settings of the plan."""
    if isinstance(allocator, str):
        ALLOCATORS.get(allocator)
    check_removable(analysis)
    # Axes that a bound freezes are scored too, so that a message can name them as the obstacle.
    frozen = {axis for axis, bound in analysis.bounds.items() if bound.frozen}
    analysis = replace(analysis, held=analysis.held - frozen)
    name = chosen_criterion(analysis, criterion)
    levels = unit_levels(analysis) if name == OBS else None
    if levels is not None:
        scores: Mapping[str, np.ndarray] = comparable_scores(levels.scores)
        damage, chosen = dict(levels.damage), allocator or ByLevels(levels.damage)
    else:
        unscaled = unit_scores(analysis, name)
        scores, damage = comparable_scores(unscaled), damage_curves(analysis.coupling, unscaled, name)
        chosen = allocator or "uniform"
    settings: dict[str, Any] = {"criterion": criterion_name(name)}
    tried = LossSearch(analysis, chosen, search, analysis.progress, repair=judge) if search else None
    keep = analysis.fit(scores, limits, allocator=tried or chosen, damage=damage)
    if tried is not None:
        settings["search"] = tried.report()
    return keep, level_decisions(keep, levels) if levels is not None else unit_decisions(keep, name), settings


def _masks(scores: Mapping[str, Tensor], count: int, allocator: str | None) -> Mapping[str, Tensor]:
    if allocator is None or allocator == "global":
        return top_masks(scores, keep_count=count)
    masks = fit_weights({n: s.double().cpu().numpy() for n, s in scores.items()}, count, allocator)
    return {name: torch.from_numpy(mask) for name, mask in masks.items()}


def _check_weight_names(criterion: CriterionLike, allocator: Any) -> None:
    weight_criterion_of(criterion)
    if allocator is not None:
        WEIGHT_ALLOCATORS.get(allocator)


def _nothing_removable(analysis: Analysis) -> str:
    coupling, ignore = analysis.coupling, analysis.ignore
    reasons = sorted({f.reason for f in coupling.frozen})
    held = f" (ignored: {', '.join(ignore)})" if ignore else ""
    if not reasons and not coupling.axes:
        return "Nothing can be removed from this model: it has no weights."
    why = f"frozen ({', '.join(reasons[:6])})"
    if not coupling.axes:
        return f"Nothing can be removed from this model: all its dims are {why}. Use levels=('weight',)."
    frozen = any(bound.frozen for bound in analysis.bounds.values())
    by = " and ".join([*(["ignore"] if ignore else []), *(["the frozen bounds"] if frozen else [])]) or "what is held"
    return (
        f"Nothing can be removed from this model{held}: all {len(coupling.axes)} axes are held, the other dims are "
        f"{why}. Loosen {by}, or use levels=('weight',)."
    )
