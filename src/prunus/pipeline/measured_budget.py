"""Budgets in milliseconds and of energy: plan, cut, measure, and plan again until the measurement fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.budget.limits import LATENCY
from prunus.data.batches import device_of
from prunus.errors import BudgetError
from prunus.measurement.energy import EnergyRatio, energy_ratio, find_meter
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.outcome import cut_proved
from prunus.pipeline.memory_budget import ENERGY, STAND_IN
from prunus.plans import Plan

_TRIES, _ROUNDS, _NEAR = 6, 21, 0.03
Solve = Callable[[Sequence[Limit]], Plan]
Measure = Callable[[nn.Module], LatencyRatio | EnergyRatio]


@dataclass(frozen=True, slots=True)
class Goal:
    """A measured metric, and the limit that changes it.

    Attributes:
        name: the name of the entry in the plan's settings.
        steer: the limit that is adjusted.
        measure: cut network → ratio to the original.
    """

    name: str
    steer: Limit
    measure: Measure


def meet(solve: Solve, analysis: Analysis, limits: Sequence[Limit], budget: Mapping[str, Any]) -> Plan:
    """Return the plan whose cut network comes nearest to the requested shares of the original's time and energy.

    Times are measured on one thread, interleaved with the original in this process; energy is read from the machine's
    counter. ``settings["latency"]`` and ``settings["energy"]`` hold wanted, predicted and measured ratio and the
    interval of the latter. Budgets that need no measurement are planned once.

    Args:
        solve: limits → plan.
        analysis: the analysis of the network, with timed ops where the budget is in milliseconds.
        limits: the first limits.
        budget: the budget as requested.
    """
    for goal in _goals(analysis, limits, budget):
        solve = _meeting(solve, goal, analysis)
    return solve(limits)


def _goals(analysis: Analysis, limits: Sequence[Limit], budget: Mapping[str, Any]) -> list[Goal]:
    model, inputs, seed = analysis.model, analysis.example_inputs, analysis.seed
    found = []

    def time_of(small: nn.Module) -> LatencyRatio:
        return latency_ratio(small, model, inputs, rounds=_ROUNDS, threads=1, seed=seed)

    for limit in limits:
        if limit.metric == LATENCY:
            found.append(Goal("latency", limit, time_of))
    if ENERGY in budget:
        meter = find_meter(device_of(model))
        steer = next(x for x in reversed(limits) if x.metric == STAND_IN)
        found.append(Goal("energy", steer, lambda small: energy_ratio(small, model, inputs, meter, seed=seed)))
    return found


def _meeting(solve: Solve, goal: Goal, analysis: Analysis) -> Solve:
    return lambda limits: _met(solve, goal, limits, analysis)


def _met(solve: Solve, goal: Goal, limits: Sequence[Limit], analysis: Analysis) -> Plan:
    """Adjust one limit and solve again, at most five times, until the measured ratio is within 3 % of the wanted one.

    It is first scaled by wanted ÷ measured, then interpolated between the two plans on either side.
    """
    others = [x for x in limits if x != goal.steer]
    whole = goal.steer.of(analysis.cost.price())
    wanted, requested = goal.steer.value / whole, float(goal.steer.value)
    best: Plan | None = None
    nearest = float("inf")
    seen: dict[float, float] = {}
    for _ in range(_TRIES):
        try:
            plan = solve([*others, replace(goal.steer, value=int(requested))])
        except BudgetError:
            if best is None:
                raise
            break
        found = goal.measure(
            cut_proved(analysis.model, analysis.coupling, plan, analysis.example_inputs, prove=False).model
        )
        predicted = goal.steer.of(plan.after) / whole
        report = {
            "wanted": wanted,
            "predicted": predicted,
            "measured": found.median,
            "interval": [found.low, found.high],
        }
        off = abs(found.median / wanted - 1)
        if off < nearest:
            nearest, best = off, replace(plan, settings={**plan.settings, goal.name: report})
        # Another limit may be the tighter one; then no adjustment helps.
        if off <= _NEAR or predicted in seen or predicted < 0.9 * requested / whole:
            break
        seen[predicted] = found.median
        requested = whole * min(_next(seen, wanted), 0.99)
    assert best is not None
    return best


def _next(seen: Mapping[float, float], wanted: float) -> float:
    """Return the predicted ratio to request: interpolated between the plans around the wanted one, else in proportion.

    Args:
        seen: predicted ratio → measured ratio.
        wanted: the measured ratio to meet.
    """
    under = max((p for p, m in seen.items() if m <= wanted), default=None)
    over = min((p for p, m in seen.items() if m > wanted), default=None)
    if under is None or over is None or under >= over:
        predicted, measured = min(seen.items(), key=lambda pair: abs(pair[1] / wanted - 1))
        return predicted * min(2.0, max(0.5, wanted / measured))
    return under + (over - under) * (wanted - seen[under]) / (seen[over] - seen[under])
