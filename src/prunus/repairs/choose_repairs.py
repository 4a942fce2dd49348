"""Which repairs are tried, and with how much effort: a person who asked for none by name should not wait long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunus.plans import UNPRICED, Plan
from prunus.repairs.blocks import LAST_STEPS, STEPS
from prunus.repairs.matching import LEAST as LEAST_SHARE
from prunus.repairs.matching import STEPS as MATCHING_STEPS
from prunus.repairs.repairs import REPAIRS, Repair
from prunus.repairs.samples import LARGEST
from prunus.repairs.walking import Route

AUTO = "auto"
_AFFORDABLE = 2e11
"""Multiply-accumulates of one pass over the data up to which ``auto`` tries the lesser repairs, too."""
_TUNING = 4e12
"""Multiply-accumulates of the training up to which it tries ``blockwise``: a minute or two of a few cores."""
_MATCHING = 4e12
"""Multiply-accumulates that steps of ``matching`` are shortened to; where too few are left, it is not tried."""
_ALWAYS = ("statistics", "refold")


@dataclass(frozen=True, slots=True)
class Effort:
    """Blended copies of the samples for blocks, and steps for matching."""

    copies: int
    steps: int


def candidates(asked: str, way: Route, plan: Plan, copies: int) -> tuple[list[Repair], Effort, tuple[str, ...]]:
    """Return the repairs to try, with how much effort, and notes on what was left out.

    A repair that was asked for by name is carried out in full; ``auto`` leaves out what takes too long.
    """
    if asked != AUTO:
        return [REPAIRS.get(asked)], Effort(copies, MATCHING_STEPS), ()
    samples = sum(lane.count for lane in way.lanes)
    small, dense = _work(way, plan)
    steps = int(min(MATCHING_STEPS, _MATCHING / max(1.0, (3 * small + dense) * min(samples, LARGEST))))
    names = [name for name in REPAIRS.names() if _affordable(REPAIRS.get(name), small * samples, samples, steps)]
    if "matching" in names and "blockwise" in names:
        names.remove("blockwise")  # it is the first half of the other
    left = [name for name in REPAIRS.names() if name not in names and not (name == "blockwise" and "matching" in names)]
    note = (f"not tried on so much data: {', '.join(left)}",) if left else ()
    return [REPAIRS.get(name) for name in names], Effort(copies, steps), note


def _work(way: Route, plan: Plan) -> tuple[float, float]:
    """Return the multiply-accumulates of one sample in the small and in the dense network."""
    first = way.programs.first.dense
    batch = max(1, first.node(first.inputs[0]).shape[0]) if first.inputs else 1
    if plan.before == UNPRICED:
        return math.inf, math.inf
    return plan.after.macs_forward / batch, plan.before.macs_forward / batch


def _affordable(repair: Repair, work: float, samples: int, steps: int) -> bool:
    if repair.matches:
        return steps >= LEAST_SHARE * MATCHING_STEPS
    if repair.tunes:  # forward and backward of a lane in every step
        return 3 * (STEPS + LAST_STEPS) * work * min(1.0, LARGEST / samples) <= _TUNING
    return work <= _AFFORDABLE or repair.name in _ALWAYS
