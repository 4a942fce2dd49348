"""Several limits for a method that meets only one: the first is lowered until the others hold too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from prunus.budget import Limit
from prunus.errors import BudgetError
from prunus.plans import Plan

_STEPS = 12


def within_all(plan_of: Callable[[Limit], Plan], limits: Sequence[Limit]) -> Plan:
    """Return the least pruned plan that was found within all limits.

    The value of the first limit is bisected; the others grow with it, so the answer is the largest network
    that was found to fit.

    Args:
        plan_of: the method, for one limit.
        limits: the first is of the metric that the method counts in.

    Raises:
        BudgetError: out of reach; the message names the limit that the smallest plan exceeds.
    """
    first, others = limits[0], limits[1:]
    plan = plan_of(first)
    if all(_holds(limit, plan) for limit in others):
        return plan
    low, high = 0, first.value
    found: Plan | None = None
    broken = plan
    for _ in range(_STEPS):
        middle = (low + high) // 2
        try:
            plan = plan_of(replace(first, value=middle))
        except BudgetError:
            low = middle
            continue
        if all(_holds(limit, plan) for limit in others):
            found, low = plan, middle
        else:
            broken, high = plan, middle
    if found is not None:
        return found
    worst = next(limit for limit in others if not _holds(limit, broken))
    raise BudgetError(
        f"Budget {worst.metric} ≤ {worst.shown()} cannot be met together with {first.metric} ≤ {first.shown()}: the "
        f"least that was reached is {worst.shown(spent(worst, broken))}. Raise it, or use method 'units', which "
        "meets several limits at once."
    )


def spent(limit: Limit, plan: Plan) -> int:
    """Return the cost of a plan in a limit's metric; masked weights count as stored: a bitmap and the kept values."""
    whole = limit.of(plan.after)
    if limit.metric == "params":
        return whole - plan.masked
    if limit.metric == "bytes" and plan.masks:
        item = plan.after.param_bytes / max(1, plan.after.params)
        bitmaps = sum(math.ceil(mask.size / 8) for mask in plan.cut_masks().values())
        return math.ceil(whole - item * plan.masked) + bitmaps
    return whole


def _holds(limit: Limit, plan: Plan) -> bool:
    return spent(limit, plan) <= limit.value
