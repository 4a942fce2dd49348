"""Meet a budget in milliseconds: predict, cut, measure, and plan again where the two part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from prunus.budget import Limit
from prunus.budget.limits import LATENCY
from prunus.errors import BudgetError
from prunus.measurement.latency import latency_ratio
from prunus.plans import Plan
from prunus.prepared import Prepared
from prunus.surgery.record import Surgery

_TRIES, _ROUNDS, _NEAR = 3, 21, 0.04
Made = tuple[Plan, nn.Module, Surgery]


def meet_latency(made: Callable[[Sequence[Limit]], Made], ready: Prepared, seed: int) -> Made:
    """Return the plan whose cut network comes nearest to the wanted share of the original's time, as measured.

    The limit is moved by wanted ÷ measured and solved again, at most twice. Times are those of one thread, interleaved
    in this process; ``settings["latency"]`` holds wanted, predicted and measured ratio and the interval of the latter.
    """
    limit = next(x for x in ready.limits if x.metric == LATENCY)
    others = tuple(x for x in ready.limits if x.metric != LATENCY)
    whole = limit.of(ready.cost.price())
    wanted, asked = limit.value / whole, float(limit.value)
    best: Made | None = None
    nearest = float("inf")
    for _ in range(_TRIES):
        try:
            plan, small, surgery = made((*others, Limit(LATENCY, int(asked))))
        except BudgetError:
            if best is None:
                raise
            break
        found = latency_ratio(small, ready.captured.model, ready.captured.inputs, rounds=_ROUNDS, threads=1, seed=seed)
        assert plan.after is not None
        predicted = plan.after.latency_fs / whole
        told = {"wanted": wanted, "predicted": predicted, "measured": found.median, "interval": [found.low, found.high]}
        off = abs(found.median / wanted - 1)
        if off < nearest:
            nearest, best = off, (replace(plan, settings={**plan.settings, "latency": told}), small, surgery)
        # Another limit may hold the time down; then there is nothing to move.
        if off <= _NEAR or predicted < 0.9 * asked / whole:
            break
        asked = min(asked * min(2.0, max(0.5, wanted / found.median)), 0.99 * whole)
    assert best is not None
    return best
