"""The choice of the repairs to try and of their effort: ``auto`` leaves out repairs that take too long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunus.plans import UNPRICED, Plan
from prunus.repairs.blocks import LAST_STEPS, STEPS
from prunus.repairs.layerwise_run import RunContext
from prunus.repairs.matching import LEAST as LEAST_SHARE
from prunus.repairs.matching import STEPS as MATCHING_STEPS
from prunus.repairs.repairs import REPAIRS, Repair
from prunus.repairs.samples import LARGEST

AUTO = "auto"
_AFFORDABLE = 2e11
"""``auto`` tries the simpler repairs too, up to this many multiply-accumulates for one pass over the data."""
_TUNING = 4e12
"""``auto`` tries ``blockwise`` up to this many multiply-accumulates of its training: a minute or two on a few cores."""
_MATCHING = 4e12
"""The budget of multiply-accumulates for the steps of ``matching``; where too few steps fit, it is not tried."""
_ALWAYS = ("statistics", "refold")


@dataclass(frozen=True, slots=True)
class Effort:
    """The effort of a repair: blended copies of the samples for blocks, and steps for matching."""

    copies: int
    steps: int


def candidates(
    requested: str, context: RunContext, plan: Plan, copies: int
) -> tuple[list[Repair], Effort, tuple[str, ...]]:
    """Return the repairs to try, their effort, and notes on the repairs that were left out.

    A repair that is requested by name is carried out in full.
    """
    if requested != AUTO:
        return [REPAIRS.get(requested)], Effort(copies, MATCHING_STEPS), ()
    samples = sum(group.count for group in context.sample_groups)
    small, dense = _work(context, plan)
    steps = int(min(MATCHING_STEPS, _MATCHING / max(1.0, (3 * small + dense) * min(samples, LARGEST))))
    names = [name for name in REPAIRS.names() if _affordable(REPAIRS.get(name), small * samples, samples, steps)]
    if "matching" in names and "blockwise" in names:
        names.remove("blockwise")  # matching begins with it
    left = [name for name in REPAIRS.names() if name not in names and not (name == "blockwise" and "matching" in names)]
    note = (f"not tried on so much data: {', '.join(left)}",) if left else ()
    return [REPAIRS.get(name) for name in names], Effort(copies, steps), note


def _work(context: RunContext, plan: Plan) -> tuple[float, float]:
    """Return the multiply-accumulates of one sample in the small and in the dense network."""
    if plan.before == UNPRICED:
        return math.inf, math.inf
    return plan.after.macs_forward, plan.before.macs_forward


def _affordable(repair: Repair, work: float, samples: int, steps: int) -> bool:
    if repair.matches:
        return steps >= LEAST_SHARE * MATCHING_STEPS
    if repair.tunes:  # each step runs one sample group forward and backward
        return 3 * (STEPS + LAST_STEPS) * work * min(1.0, LARGEST / samples) <= _TUNING
    return work <= _AFFORDABLE or repair.name in _ALWAYS
