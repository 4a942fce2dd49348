"""Memory budgets, met by bisecting a MACs limit, and the limits behind a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prunus.analysis import Analysis
from prunus.budget import Limit, parse_budget
from prunus.budget.limits import LATENCY
from prunus.cost.memory import memory_model
from prunus.errors import BudgetError, OptionError
from prunus.graph.coupling import Coupling
from prunus.plans import Cost, Plan

MEMORY = "memory"
ENERGY = "energy"
STAND_IN = "macs"
"""The metric whose limit steers energy, which can only be measured."""
_STEPS = 12
Solve = Callable[[Sequence[Limit]], Plan]


def call_settings(analysis: Analysis, budget: Mapping[str, Any]) -> dict[str, int]:
    """Return the samples of the call as a plan's setting, where a budget limits the time or memory of that call.

    All other prices are those of one sample, so that plans do not depend on the batch of the example.
    """
    return {"samples": analysis.samples} if {LATENCY, MEMORY, ENERGY} & budget.keys() else {}


def split_budget(budget: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the metrics that allocators know from those that are measured on the cut network."""
    outside = (MEMORY, ENERGY)
    return {k: v for k, v in budget.items() if k not in outside}, {k: v for k, v in budget.items() if k in outside}


def limits_of(budget: Mapping[str, Any], before: Cost) -> tuple[tuple[Limit, ...], dict[str, Any]]:
    """Return the limits for allocators, and the memory budget beside them.

    Raises:
        OptionError: an unknown metric, or an amount that is not allowed.
        BudgetError: the uncut model meets the whole budget.
    """
    counted, measured = split_budget(budget)
    limits = parse_budget(counted, before) if counted or not measured else ()
    if ENERGY in measured:
        # The same share of MACs, until the cut network is measured.
        limits = (*limits, Limit(STAND_IN, math.floor(energy_share(measured[ENERGY]) * before.macs_forward)))
    if not measured:
        _check_anything_to_do(limits, before)
    return limits, {name: value for name, value in measured.items() if name == MEMORY}


def energy_share(value: Any) -> float:
    """Return the value of a budget of energy.

    Raises:
        OptionError: the value is no kept fraction.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise OptionError(f"budget energy is {value!r}; allowed: a kept fraction between 0 and 1, such as 0.5.")
    return float(value)


def _check_anything_to_do(limits: tuple[Limit, ...], before: Cost) -> None:
    """Refuse limits that the uncut model meets.

    Raises:
        BudgetError: all of them hold already.
    """
    if all(limit.holds(before) for limit in limits):
        met = ", ".join(
            f"{limit.metric} ≤ {limit.shown()} (it has {limit.shown(limit.of(before))})" for limit in limits
        )
        raise BudgetError(f"The model meets the budget as it is: {met}; nothing would be removed. Lower the budget.")


def solve_within_memory(
    solve: Solve, limits: Sequence[Limit], memory: Mapping[str, Any], coupling: Coupling, before: Cost
) -> Plan:
    """Return the least pruned plan within the limits and the memory budget.

    The MACs limit is bisected; memory grows with it, so the answer is the largest network that was found to fit.

    Args:
        solve: limits → plan.
        limits: of metrics that allocators know.
        memory: ``{"memory": 0.5}``: parameters and the most activations alive at once, for the example inputs; a kept
            fraction, bytes, or a text such as ``"20MB"``.
        coupling: the analysed model.
        before: price of the whole.

    Raises:
        OptionError: an amount that is not allowed.
        BudgetError: out of reach, or met already.
    """
    if MEMORY not in memory:
        return solve(limits)
    model = memory_model(coupling)
    whole = model.price()
    most = memory_limit(memory[MEMORY], whole)
    low, high = 0.0, 1.0
    found: Plan | None = None
    least = whole
    for _ in range(_STEPS):
        share = (low + high) / 2
        try:
            plan = solve((*limits, Limit("macs", math.floor(share * before.macs_forward))))
        except BudgetError:
            low = share
            continue
        spent = model.price(plan.axes)
        least = min(least, spent)
        if spent <= most:
            found, low = plan, share
        else:
            high = share
    if found is None:
        raise BudgetError(
            f"Budget memory ≤ {most:,} bytes cannot be met: the least that was reached is {least:,} of {whole:,}, for "
            "these example inputs. Raise the budget, or give smaller inputs."
        )
    return found


def memory_limit(value: Any, whole: int) -> int:
    """Return a memory budget in bytes.

    Raises:
        OptionError: an amount that is not allowed.
        BudgetError: the uncut model needs no more than that.
    """
    try:
        (limit,) = parse_budget({"bytes": value}, Cost(0, 0, 0, whole))
    except OptionError as error:
        raise OptionError(str(error).replace("budget bytes", "budget memory", 1)) from error
    if limit.value >= whole:
        raise BudgetError(
            f"The model meets the budget as it is: memory ≤ {limit.value:,} (it needs {whole:,}); lower it."
        )
    return limit.value
