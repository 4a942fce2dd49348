"""Meet a budget that must be measured, milliseconds or energy: plan, cut, measure, and plan again where they part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunus.budget import Limit
from prunus.budget.limits import LATENCY
from prunus.errors import BudgetError
from prunus.gauges import ENERGY, STAND_IN
from prunus.measurement.batches import device_of
from prunus.measurement.energy import EnergyRatio, energy_ratio, find_meter
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.plans import Plan
from prunus.prepared import Prepared
from prunus.surgery.record import Surgery

_TRIES, _ROUNDS, _NEAR = 6, 21, 0.03
Made = tuple[Plan, nn.Module, Surgery]
Make = Callable[[Sequence[Limit]], Made]
Measure = Callable[[nn.Module], LatencyRatio | EnergyRatio]


@dataclass(frozen=True, slots=True)
class Goal:
    """What is measured, and the limit that moves it.

    Attributes:
        name: of the entry in the plan's settings.
        steer: the limit in it that is moved.
        measure: cut network → ratio to the original.
    """

    name: str
    steer: Limit
    measure: Measure


def meet(make: Make, ready: Prepared, seed: int) -> Made:
    """Return the plan whose cut network comes nearest to the wanted shares of the original's time and energy.

    Times are those of one thread, interleaved with the original in this process; energy is what the machine's own
    counter says. ``settings["latency"]`` and ``settings["energy"]`` hold wanted, predicted and measured ratio and the
    interval of the latter. Budgets that need no measuring pass straight through.
    """
    for goal in _goals(ready, seed):
        make = _meeting(make, goal, ready)
    return make(ready.limits)


def _goals(ready: Prepared, seed: int) -> list[Goal]:
    model, inputs = ready.captured.model, ready.captured.inputs
    found = []
    for limit in ready.limits:
        if limit.metric == LATENCY:
            found.append(Goal("latency", limit, lambda small: latency_ratio(small, model, inputs, rounds=_ROUNDS,
                                                                            threads=1, seed=seed)))  # fmt: skip
    if ENERGY in ready.request.budget:
        meter = find_meter(device_of(model))
        steer = next(x for x in reversed(ready.limits) if x.metric == STAND_IN)
        found.append(Goal("energy", steer, lambda small: energy_ratio(small, model, inputs, meter, seed=seed)))
    return found


def _meeting(make: Make, goal: Goal, ready: Prepared) -> Make:
    return lambda limits: _met(make, goal, limits, ready)


def _met(make: Make, goal: Goal, limits: Sequence[Limit], ready: Prepared) -> Made:
    """Move one limit and solve again, at most five times, until the measured ratio is within 3 % of the wanted one.

    It is moved by wanted ÷ measured at first, then between the two plans that lie on either side.
    """
    others = [x for x in limits if x != goal.steer]
    whole = goal.steer.of(ready.cost.price())
    wanted, asked = goal.steer.value / whole, float(goal.steer.value)
    best: Made | None = None
    nearest = float("inf")
    seen: dict[float, float] = {}
    for _ in range(_TRIES):
        try:
            plan, small, surgery = make([*others, replace(goal.steer, value=int(asked))])
        except BudgetError:
            if best is None:
                raise
            break
        found = goal.measure(small)
        assert plan.after is not None
        predicted = goal.steer.of(plan.after) / whole
        told = {"wanted": wanted, "predicted": predicted, "measured": found.median, "interval": [found.low, found.high]}
        off = abs(found.median / wanted - 1)
        if off < nearest:
            nearest, best = off, (replace(plan, settings={**plan.settings, goal.name: told}), small, surgery)
        # Another limit may hold it down; then there is nothing to move.
        if off <= _NEAR or predicted in seen or predicted < 0.9 * asked / whole:
            break
        seen[predicted] = found.median
        asked = whole * min(_next(seen, wanted), 0.99)
    assert best is not None
    return best


def _next(seen: Mapping[float, float], wanted: float) -> float:
    """Return the predicted ratio to ask for: on the line between the plans around what is wanted, else in proportion.

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
