"""The choice of the repairs to try and of their work: ``auto`` leaves out what the effort does not allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunus.foundation.effort import Effort
from prunus.plans import UNPRICED, Plan
from prunus.repairs.blocks import LAST_STEPS, STEPS
from prunus.repairs.layerwise_run import RunContext
from prunus.repairs.matching import BEST, MINUTES, REUSE, Rounds
from prunus.repairs.repairs import REPAIRS, Repair
from prunus.repairs.samples import LARGEST

AUTO = "auto"
_AFFORDABLE = 2e11
"""The multiply-accumulates of a pass over the data up to which ``auto`` tries the simpler repairs with ``best``."""
_TUNING = 2.5e11
"""``auto`` trains blocks up to this many multiply-accumulates, times the scale of the effort."""
_MATCHING = 1e12
"""The multiply-accumulates of the steps of ``matching``, times the scale of the effort: half a minute on two cores."""
_CLOSED = ("statistics", "refold")
_INSTEAD = ("bias", "scales")
"""Tried where ``refold`` has not helped."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a repair.

    Attributes:
        copies: blended copies of the samples for blocks.
        rounds: of ``matching``.
        blocks: ``matching`` begins with the training of blocks; otherwise with the best repair before it.
        instead: repairs that are tried only where ``refold`` has not helped.
    """

    copies: int
    rounds: Rounds
    blocks: bool = True
    instead: tuple[Repair, ...] = ()


def candidates(
    requested: str, context: RunContext, plan: Plan, copies: int, effort: Effort
) -> tuple[list[Repair], Work, tuple[str, ...]]:
    """Return the repairs to try, their work, and notes on the repairs that were left out.

    A repair that is requested by name is carried out in full, whatever the effort.
    """
    if requested != AUTO:
        return [REPAIRS.get(requested)], Work(copies, BEST), ()
    if effort.level == "seconds":
        return _of(_CLOSED), Work(copies, Rounds(0), instead=tuple(_of(_INSTEAD))), ()
    samples = sum(group.count for group in context.sample_groups)
    small, dense = _macs(context, plan)
    step = max(1.0, (3 * small + dense / REUSE) * min(samples, LARGEST))
    whole = BEST if effort.level == "best" else MINUTES
    rounds = whole.within(int(_MATCHING * effort.scale / step))
    if effort.level == "minutes":
        names = [*_CLOSED, *_of_others(), *(["matching"] if rounds.steps else [])]
        note = () if rounds.steps else ("not tried on so much data: matching",)
        return _of(names), Work(copies, rounds, blocks=False, instead=tuple(_of(_INSTEAD))), note
    names = [
        name for name in REPAIRS.names() if _affordable(REPAIRS.get(name), small * samples, samples, rounds, effort)
    ]
    if "matching" in names and "blockwise" in names:
        names.remove("blockwise")  # matching begins with it
    left = [name for name in REPAIRS.names() if name not in names and not (name == "blockwise" and "matching" in names)]
    note = (f"not tried on so much data: {', '.join(left)}",) if left else ()
    return _of(names), Work(copies, rounds), note


def _of_others() -> list[str]:
    """Return the names of repairs of outside packages that train nothing."""
    own = {*_CLOSED, *_INSTEAD, "blockwise", "matching"}
    return [name for name in REPAIRS.names() if name not in own and not REPAIRS.get(name).tunes]


def _of(names: tuple[str, ...] | list[str]) -> list[Repair]:
    return [REPAIRS.get(name) for name in names]


def _macs(context: RunContext, plan: Plan) -> tuple[float, float]:
    """Return the multiply-accumulates of one sample in the small and in the dense network."""
    if plan.before == UNPRICED:
        return math.inf, math.inf
    return plan.after.macs_forward, plan.before.macs_forward


def _affordable(repair: Repair, work: float, samples: int, rounds: Rounds, effort: Effort) -> bool:
    if repair.matches:
        return rounds.steps > 0
    if repair.tunes:  # each step runs one sample group forward and backward
        return 3 * (STEPS + LAST_STEPS) * work * min(1.0, LARGEST / samples) <= _TUNING * effort.scale
    return work <= _AFFORDABLE or repair.name in _CLOSED
