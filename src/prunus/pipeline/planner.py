"""The planner: an analysis and a request become a plan; methods meet limits, repeated plans meet other budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from prunus.analysis import Analysis
from prunus.analysis.review import with_savings
from prunus.budget import METRICS, Limit
from prunus.budget.limits import LATENCY
from prunus.data.batches import device_of
from prunus.data.given import MissingData
from prunus.data.learning import learning_data
from prunus.errors import BudgetError, DataError, OptionError
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.free_memory import memory_limit
from prunus.measurement.energy import find_meter
from prunus.methods.by_count import plan_by_count
from prunus.methods.by_criterion import UNITS, check_removable, stored_scores
from prunus.methods.merging import merged
from prunus.methods.method import Lesson
from prunus.outcome import recovery_of
from prunus.pipeline.damage import measure_damage, with_damage
from prunus.pipeline.input_sizes import plan_over_sizes
from prunus.pipeline.max_drop import check_drop, smallest_within, with_drop
from prunus.pipeline.measured_budget import meet
from prunus.pipeline.memory_budget import ENERGY, call_settings, limits_of, solve_within_memory
from prunus.pipeline.missing_data import missing_data
from prunus.pipeline.request import Budget, Request
from prunus.pipeline.several import within_all
from prunus.pipeline.stage_checks import check_to_apply
from prunus.pipeline.stages import run_stages
from prunus.plans import Plan
from prunus.recovery.options import whole_recovery
from prunus.surgery.adapters import MERGE, adapted_layers
from prunus.surgery.over_kept import over_kept_lines

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan, and the network with the weights that were trained on the way; None where none were.

    ``learned`` says that a method which prunes while it trains has spent the steps of the recovery.
    """

    plan: Plan
    weights: nn.Module | None = None
    learned: bool = False


@in_ordinary_mode
def plan_for(analysis: Analysis, budget: Budget, **options: Any) -> Plan:
    """Return the plan of a request; see `Analysis.plan`.

    Raises:
        OptionError: stages that train weights, which a plan does not hold; or as `planned`.
    """
    return plan_request(analysis, Request.of(budget, options))


def plan_request(analysis: Analysis, request: Request) -> Plan:
    """Return the plan of a request that trains no weights.

    Raises:
        OptionError: stages that train weights, which a plan does not hold; or as `planned`.
    """
    check_to_apply(request)
    return planned(analysis, request).plan


def planned(analysis: Analysis, request: Request, *, learn: bool = False) -> Planned:
    """Plan a request: method, limits, measured budgets, drops of accuracy and stages.

    Args:
        analysis: the network.
        request: what is to be planned.
        learn: a method that prunes while it trains takes the steps of the recovery, and its weights are kept; else it
            trains a copy for a few steps and only its plan is used.

    Raises:
        OptionError: a budget that the method does not know, or an option that needs other data.
        BudgetError: out of reach, or met already.
    """
    with memory_limit(analysis.effort.memory_limit):
        return _found(analysis, request, learn)


def _found(analysis: Analysis, request: Request, learn: bool) -> Planned:
    if request.resolution is not None:
        return Planned(plan_over_sizes(analysis, request, lambda sized, inner: planned(sized, inner).plan))
    if not request.stages:
        recovery_of(request.recover, has_data=analysis.has_data)
    if request.merge and not analysis.has_data:
        raise OptionError("merge is True, which fits shares on data, and there are none; give data, or merge=False.")
    if ENERGY in request.budget:
        find_meter(device_of(analysis.model))
    bounded = analysis.bounded(request.bounds)
    if request.stages:
        staged = run_stages(bounded, request)
        return Planned(_finished(staged.plan, analysis, request, {}), staged.model)
    try:
        if learn and (lesson := _lesson(analysis, request)) is not None:
            return _learned(bounded, request, lesson)
        found = _with_whole_heads(bounded, request) if request.count is None else _by_count(bounded, request)
        return Planned(_merged(bounded, request, found))
    except MissingData as error:
        raise missing_data(request, error) from error
    except DataError as error:
        if not analysis.parts:
            raise
        raise OptionError(
            f"method {request.planner.name!r} runs data through the captured program, and the model was captured in "
            f"parts ({', '.join(analysis.parts)}): {str(error).rstrip('.')}. Use criterion magnitude or taylor."
        ) from error


def _merged(analysis: Analysis, request: Request, plan: Plan) -> Plan:
    """Let the inputs of layers that stay take over the share of those that go, if the request or its method says so."""
    able = analysis.has_data and not analysis.parts
    return merged(analysis.for_plan(plan), plan) if request.merge or (request.merges and able) else plan


def _lesson(analysis: Analysis, request: Request) -> Lesson | None:
    """Return the training of a method that prunes while it trains; None where a plan is made first."""
    options = recovery_of(request.recover, has_data=analysis.has_data)
    counted = len(request.budget) == 1 and METRICS.keys() - {LATENCY} >= request.budget.keys()
    if request.planner.teach is None or options is None or not counted or analysis.given is None:
        return None
    whole = whole_recovery(options)
    if whole.minutes is not None:
        return None
    train = learning_data(analysis.given.data, analysis.given.held_out)[0]
    return Lesson(train, whole.options(), analysis.seed, request.method_options, whole)


def _learned(analysis: Analysis, request: Request, lesson: Lesson) -> Planned:
    assert request.planner.teach is not None
    limits, _ = limits_of(request.counted, analysis.cost.price())
    ready = analysis.in_metric(limits[0].metric)
    found = request.planner.teach(ready, limits, lesson)
    return Planned(_finished(found.plan, ready, request, {}), found.model, learned=True)


def _by_count(analysis: Analysis, request: Request) -> Plan:
    """Plan for a number of parts or a threshold of their scores; the price follows."""
    assert request.count is not None
    chosen, ready = request.planner, analysis.in_metric("params")
    options = {
        name: value for name, value in request.options.items() if name in ("criterion", "allocator", "reconnect")
    }
    found = plan_by_count(ready, request.count, chosen, **options)
    return _finished(found, ready, request, _scores(ready, found))


def _with_whole_heads(analysis: Analysis, request: Request) -> Plan:
    """Plan with whole heads; if the budget is out of reach so, the widths of heads may be cut too."""
    try:
        return _planned(analysis, request)
    except BudgetError as error:
        free = analysis.with_free_head_dims() if analysis.own is not None else analysis
        if free.coupling.axes.keys() == analysis.coupling.axes.keys():
            if adapted_layers(analysis.model):
                raise BudgetError(f"{error} Adapters such as DoRA hold the weights beside them; {MERGE}.") from error
            raise
        return _planned(free, request)


def _planned(analysis: Analysis, request: Request) -> Plan:
    return _within_drop(analysis, request, lambda counted: _counted(analysis, request, counted))


def _within_drop(analysis: Analysis, request: Request, plan_of: Callable[[Mapping[str, Any]], Plan]) -> Plan:
    """Plan for countable budgets; for ``max_drop`` alone, find the smallest network that keeps it."""
    drop = request.max_drop
    if drop is None:
        return plan_of(request.counted)
    if request.counted:
        return with_drop(check_drop(analysis, plan_of(request.counted), drop, request.recover), drop)
    found = smallest_within(analysis, drop, lambda share: plan_of({"params": share}), request.recover)
    return with_drop(found, drop)


def _counted(analysis: Analysis, request: Request, counted: Mapping[str, Any]) -> Plan:
    """Plan for limits that can be counted or measured without training."""
    chosen = request.planner
    if chosen.name == UNITS:
        check_removable(analysis)
    if LATENCY in counted:
        analysis = analysis.timed(request.threads)
    limits, memory = limits_of(counted, analysis.cost.price())
    metric = limits[0].metric if limits else "macs"
    ready = analysis.in_metric(metric, threads=request.threads)
    _check_share(chosen.only_kept, chosen.name, ready, limits)

    def solve(requested: Sequence[Limit]) -> Plan:
        given = tuple(requested)
        if chosen.joint or len(given) == 1:
            return chosen.plan(ready, given, **request.options)
        return within_all(lambda one: chosen.plan(ready, (one,), **request.options), given)

    def solve_all(requested: Sequence[Limit]) -> Plan:
        return solve_within_memory(solve, requested, memory, ready.coupling, ready.cost.price())

    found = meet(solve_all, ready, limits, request.budget)
    return _finished(found, ready, replace(request, budget=dict(request.budget)), _scores(ready, found))


def _finished(plan: Plan, analysis: Analysis, request: Request, scores: Mapping[str, np.ndarray]) -> Plan:
    """Return the plan with every decision priced, and with the request in its settings."""
    own, analysis = dict(plan.settings), analysis.for_plan(plan)
    settings = request.settings() | {k: v for k, v in own.items() if k != "method" or request.method is None}
    settings |= {"ignore": list(analysis.ignore), "held": sorted(analysis.held), "seed": analysis.seed}
    settings["forward"] = analysis.forward
    settings |= call_settings(analysis, request.budget)
    if lines := over_kept_lines(analysis.coupling, plan.axes):
        settings["over_kept"] = lines
    if analysis.opt_in:
        settings["opt_in"] = list(analysis.opt_in)
    if analysis.config_ties:
        settings["config_ties"] = True
    found = with_savings(replace(plan, settings=settings), analysis.coupling, scores)
    if request.damage:
        found = with_damage(found, measure_damage(analysis, found, analysis.progress))
    return found


def _scores(analysis: Analysis, plan: Plan) -> Mapping[str, np.ndarray]:
    """Return the unit scores behind a plan, if there are any; nothing is measured again."""
    return stored_scores(analysis, plan.settings.get("criterion")) if plan.axes else {}


def _check_share(allowed: Sequence[float] | None, name: str, analysis: Analysis, limits: Sequence[Limit]) -> None:
    if allowed is None or not limits:
        return
    share = analysis.kept(limits[0])
    if not any(abs(share - kept) * max(1, limits[0].of(analysis.cost.price())) <= 1 for kept in allowed):
        shown = ", ".join(f"{kept:.0%}" for kept in allowed)
        raise BudgetError(f"method {name!r} is defined at {shown} kept only; got {share:.4g} of {limits[0].metric}.")
