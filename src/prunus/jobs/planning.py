"""Plan what a recipe asks for; a scored parent answers further budgets without measuring again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunus.budget import ALLOCATORS, parse_budget
from prunus.budget.limits import LATENCY, METRICS
from prunus.criteria import UNIT_CRITERIA
from prunus.errors import OptionError, PlanError
from prunus.gauges import split_budget
from prunus.jobs.dropping import MAX_DROP, allowed_drop, check_drop, smallest_within, with_drop
from prunus.jobs.searching import Searching
from prunus.jobs.stage_wanted import check_stages
from prunus.jobs.stages import Staged, run_stages
from prunus.methods import METHODS
from prunus.methods.neurons import unit_scores
from prunus.methods.under import under
from prunus.parent import Parent, weights_digest
from prunus.plans import Cost, Plan
from prunus.progress import Progress
from prunus.review import with_savings
from prunus.scored import Scored, plain, plain_bounds
from prunus.selectors import bounds_on
from prunus.tree import grow_tree

if TYPE_CHECKING:
    from prunus.recipe import Recipe

_ANY = Cost(params=1, macs_forward=1, macs_backward=1, param_bytes=1)


def scored_parent(parent: Parent, scores: Mapping[str, np.ndarray] | None = None) -> Scored:
    """Score the units of a parent by the recipe's criterion; scores that are known already are taken as they are."""
    subject, criterion = parent.subject, parent.recipe.prune.criterion
    UNIT_CRITERIA.get(criterion)
    found = unit_scores(subject, criterion) if scores is None else dict(scores)
    return Scored(subject.coupling, subject.cost, found, criterion, subject.held, subject.seed)


def check_wanted(recipe: Recipe, *, to_apply: bool = False) -> None:
    """Refuse what cannot be planned before anything is trained.

    Args:
        recipe: with its budget.
        to_apply: whether the plan alone will be kept, to be applied to the original network later.

    Raises:
        OptionError: no budget, an unknown metric, criterion, allocator or method, or stages that cannot be had so.
    """
    check_stages(recipe, to_apply=to_apply)
    wanted = recipe.prune
    UNIT_CRITERIA.get(wanted.criterion)
    ALLOCATORS.get(wanted.allocator)
    if not wanted.budget:
        raise OptionError(
            "The recipe has no budget; add a section 'prune: {budget: {params: 0.5}}', or give --budget params=0.5."
        )
    counted, drop = _split(wanted.budget)
    known, _ = split_budget(counted)
    if known:
        parse_budget(known, _ANY)
    if wanted.method is not None:
        METHODS.get(wanted.method)
        if wanted.search:
            raise OptionError(
                f"search: {wanted.search} looks around the answer of an allocator; method {wanted.method!r} makes its "
                "own plan. Leave one of the two out."
            )
        if drop is None or counted:
            _share(counted, wanted.method)


def _split(budget: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Part what is counted from what must be measured after recovery."""
    counted = {metric: value for metric, value in budget.items() if metric != MAX_DROP}
    return counted, allowed_drop(budget[MAX_DROP]) if MAX_DROP in budget else None


def plan_recipe(
    parent: Parent, progress: Progress | None = None, scores: Mapping[str, np.ndarray] | None = None
) -> tuple[Plan, Mapping[str, np.ndarray]]:
    """Return the plan of a recipe's section ``prune``, every decision priced, and the scores it rests on.

    Scores that are there already are taken as they are.

    Raises:
        OptionError: no budget, an unknown criterion, allocator or method, or a budget that the method does not know.
        BudgetError: the budget is out of reach or met already.
    """
    check_wanted(parent.recipe, to_apply=True)
    if parent.recipe.stages:
        return staged_recipe(parent, progress).plan, {}
    if parent.recipe.prune.method is None:
        scored = scored_parent(parent, scores)
        return plan_again(parent, scored, progress), scored.scores
    return _within(parent, lambda budget: _by_method(parent, budget), progress), {}


def staged_recipe(parent: Parent, progress: Progress | None = None) -> Staged:
    """Go through the stages of a recipe; every decision of the plan is priced.

    Raises:
        OptionError: a budget that stages do not know.
        BudgetError: out of reach, or met already.
    """
    staged = run_stages(parent, progress)
    return replace(staged, plan=_finished(staged.plan, parent, {}))


def plan_again(parent: Parent, scored: Scored, progress: Progress | None = None) -> Plan:
    """Return the plan for the budget of the parent's recipe from scores that are there."""
    wanted = parent.recipe.prune
    if LATENCY in wanted.budget and not scored.cost.times:
        subject, threads = parent.subject, parent.recipe.compare.latency.threads
        scored = scored.timed(subject.model, subject.example_inputs, threads=threads, progress=progress)

    def planned(budget: Mapping[str, Any]) -> Plan:
        if not wanted.search:
            return _finished(
                scored.plan(budget, allocator=wanted.allocator, bounds=wanted.bounds), parent, scored.scores
            )
        search = Searching(parent.subject, wanted.allocator, wanted.search, progress, repair=wanted.judge)
        plan = scored.plan(budget, allocator=search, bounds=wanted.bounds)
        plan = replace(plan, settings={**plan.settings, "search": search.told()})
        return _finished(plan, parent, scored.scores)

    return _within(parent, planned, progress)


def _within(parent: Parent, planned: Callable[[Mapping[str, Any]], Plan], progress: Progress | None) -> Plan:
    """Plan for what is counted; ``max_drop`` alone asks for the smallest network that keeps it."""
    counted, drop = _split(parent.recipe.prune.budget)
    if drop is None:
        return planned(counted)
    if counted:
        return with_drop(check_drop(parent, planned(counted), drop), drop)
    return with_drop(smallest_within(parent, drop, lambda share: planned({"params": share}), progress), drop)


def _by_method(parent: Parent, budget: Mapping[str, Any]) -> Plan:
    name, wanted = str(parent.recipe.prune.method), parent.recipe.prune
    metric, share = _share(budget, name)
    bounds = bounds_on(grow_tree(parent.subject.coupling), wanted.bounds) if wanted.bounds else {}
    subject = under(parent.subject, metric, bounds, threads=parent.recipe.compare.latency.threads)
    plan = METHODS.get(name).plan(subject, share)
    settings = {**plan.settings, "budget": plain(budget), "method": name, "held": sorted(parent.subject.held)}
    if wanted.bounds:
        settings["bounds"] = plain_bounds(wanted.bounds)
    return _finished(replace(plan, settings=settings), parent, {})


def check_weights_of(plan: Plan, parent: Parent) -> None:
    """Refuse a plan whose weights were others: its scores would mean nothing.

    Raises:
        PlanError: the tensors differ from those it was made for.
    """
    planned, own = plan.settings.get("weights"), weights_digest(parent.model)
    if planned is not None and planned != own:
        raise PlanError(
            f"The plan was made for weights {planned}; those of {parent.recipe.model!r} are {own} now. Plan again."
        )


def _finished(plan: Plan, parent: Parent, scores: Mapping[str, np.ndarray]) -> Plan:
    settings = {**plan.settings, "weights": weights_digest(parent.model), "samples": parent.samples}
    return with_savings(replace(plan, settings=settings), parent.subject.coupling, scores)


def _share(budget: Mapping[str, Any], method: str) -> tuple[str, float]:
    """Return the metric and the kept share of a budget for a whole method."""
    metric, value = next(iter(budget.items()), ("", None))
    fits = len(budget) == 1 and metric in METRICS and isinstance(value, float) and 0 < value < 1
    if not fits:
        raise OptionError(
            f"method {method!r} takes a budget of one kept share, such as {{params: 0.5}} (or {', '.join(METRICS)}); "
            f"got {dict(budget)}. Leave the method out to use criterion and allocator."
        )
    assert isinstance(value, float)
    if METHODS.get(method).level == "weight" and metric not in ("params", "bytes"):
        raise OptionError(
            f"method {method!r} puts weights to zero, which changes neither MACs nor time; got a budget of {metric}. "
            "Give it as params or bytes, or take a method that removes units."
        )
    return metric, value
