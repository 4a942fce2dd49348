"""Checks of a request with stages: one budget, and no option that its stages do not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunus.analysis import Analysis
from prunus.budget import METRICS, Limit, parse_budget
from prunus.budget.limits import LATENCY
from prunus.errors import OptionError
from prunus.foundation.defaults import DEFAULTS
from prunus.methods.hierarchy.assignment import check_tree_settings
from prunus.pipeline.memory_budget import ENERGY, MEMORY, limits_of
from prunus.pipeline.method_options import OPTIONS
from prunus.pipeline.request import MAX_DROP, Request
from prunus.recovery import RECOVERY_METHODS, RecoveryOptions
from prunus.recovery.method_names import AUTOPILOT
from prunus.recovery.options import whole_recovery

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage

_INSTEAD = {
    "criterion": "name the criterion in each stage of units",
    "allocator": "name the allocator in each stage of units",
    "method_options": "give the settings to a stage with a strategy",
}
"""Options that stages have themselves: the advice in the message."""
_LEAVE_OUT = "leave it out, or leave the stages out"


def check_stages(request: Request) -> None:
    """Refuse options that a request with stages cannot have, before anything is captured or trained.

    Raises:
        OptionError: an option that stages have themselves.
    """
    if request.resolution is not None:
        check_beside_resolution(request)
    if not request.stages:
        return
    for key in OPTIONS:
        value = getattr(request, key)
        if value != getattr(DEFAULTS, key):
            instead = _INSTEAD.get(key, _LEAVE_OUT)
            raise OptionError(f"prune.{key} is {value!r}, which does not reach into stages; {instead}.")
    for number, stage in enumerate(request.stages, 1):
        if stage.trains:
            _check_trains(number, round_recovery(stage, request).method, stage.strategy is not None)


def round_recovery(stage: Stage, request: Request) -> RecoveryOptions:
    """Return the options by which a stage with a schedule trains between its rounds: its own, over the request's."""
    return whole_recovery(request.recover) if stage.recover is None else stage.recover.over(request.recover)


def _check_trains(number: int, method: str, strategy: bool) -> None:
    able = [name for name in RECOVERY_METHODS.names() if RECOVERY_METHODS.get(name).trained]
    if strategy:
        able = ["finetune", "distil"]
    if method != AUTOPILOT and method not in able:
        reason = "a strategy cannot learn so" if strategy else f"{method!r} takes no steps"
        raise OptionError(
            f"stage {number} trains while it prunes by recover.method {method!r}, and {reason}; allowed: "
            f"{', '.join(able)}, autopilot."
        )


def check_beside_resolution(request: Request) -> None:
    """Refuse what a budget over input sizes cannot have beside it.

    Raises:
        OptionError: stages, ``max_drop``, energy, a count or a threshold, or no budget that a size changes.
    """
    if request.stages:
        raise OptionError("resolution stands beside stages, which prune at one input size; leave one of the two out.")
    for metric in (MAX_DROP, ENERGY):
        if metric in request.budget:
            raise OptionError(
                f"resolution stands beside budget {metric}, which is measured against the network at the same input "
                "size; give macs, latency_ms or memory."
            )
    if not {"macs", LATENCY, MEMORY} & request.budget.keys():
        raise OptionError(
            f"resolution stands beside budget {', '.join(request.budget)}, which no input size changes; give macs, "
            "latency_ms or memory."
        )


def check_to_apply(request: Request) -> None:
    """Refuse stages that train where only a plan is stored, to be applied to the original network.

    Raises:
        OptionError: a stage that recovers or prunes along a schedule.
    """
    if any(stage.recover is not None or stage.trains for stage in request.stages):
        raise OptionError(
            "stages that recover or prune along a schedule learn weights, and a plan holds none: applying it would cut "
            "the original ones. Use prunus.prune or 'prunus prune', or leave recover, schedule and steps out of the "
            "stages."
        )


def check_limits(analysis: Analysis, request: Request) -> None:
    """Refuse bounds and counted budgets that a network cannot have, before it is trained.

    Raises:
        SelectorError: a bound or a setting whose pattern matches nothing.
        OptionError: an amount that is not allowed.
        BudgetError: the uncut network meets the budget.
    """
    bounded = analysis.bounded(request.bounds)
    if request.nodes or request.strategy or request.divide or request.optimise:
        check_tree_settings(bounded, request.nodes, request.strategy, request.divide, request.optimise)
    if request.stages:
        stage_budget(bounded, request)
    elif request.counted and request.counted.keys() <= METRICS.keys() - {LATENCY}:
        limits_of(request.counted, bounded.cost.price())


def stage_budget(analysis: Analysis, request: Request) -> Limit:
    """Return the one limit of a request with stages.

    Raises:
        OptionError: no metric or several, one that stages do not count, or weights where zeros save nothing.
        BudgetError: the uncut network meets it.
    """
    check_stages(request)
    budget = request.budget
    if len(budget) != 1 or next(iter(budget)) not in METRICS or request.method is not None:
        raise OptionError(
            f"stages take one budget (of {', '.join(METRICS)}) and no method of their own in the section prune; got "
            f"budget {dict(budget)}, method {request.method}. Give prune: {{budget: {{params: 0.3}}}}."
        )
    (limit,) = parse_budget(budget, analysis.cost.price())
    if limit.metric != "params" and any(stage.level == "weights" for stage in request.stages):
        raise OptionError(
            f"a stage of level weights sets weights to zero, which does not change {limit.metric}; give the budget as "
            "params, or remove that stage."
        )
    return limit
