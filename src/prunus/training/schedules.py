"""Pruning schedules: progress t ∈ [0, 1] of a training → kept fraction, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from prunus.errors import OptionError
from prunus.foundation.registry import Registry

Schedule: TypeAlias = Callable[[float, float], float]
"""(progress s ∈ [0, 1] of the pruning, final kept fraction) → kept fraction: 1 at s = 0, the final one at s = 1."""

RAMP = 2 / 3
"""The part of a training in which pruning happens; the last third trains at the final fraction."""
DECAY = 0.9
STEPS = 4
_HALVINGS = 60

KEPT_SCHEDULES: Registry[Schedule] = Registry("pruning schedule", "prunus.schedules", kind=Callable)


def kept_at(name: str, t: float, kept: float, *, begin: float = 0.0, end: float = RAMP) -> float:
    """Return the kept fraction at training progress ``t``: 1 up to ``begin``, exactly ``kept`` from ``end`` on.

    Args:
        name: a name of KEPT_SCHEDULES: one_shot, linear, cubic, cosine, geometric, steps.
        t: progress of the training, 0 at its first step, 1 after its last.
        kept: final fraction.
        begin, end: progress at which pruning begins and at which the final fraction is reached.

    Raises:
        OptionError: an unknown name, t or kept outside [0, 1], kept = 0, or not 0 ≤ begin ≤ end ≤ 1.

    Example:
        >>> [round(kept_at("cubic", t, 0.1), 3) for t in (0.0, 1 / 3, 2 / 3, 1.0)]
        [1.0, 0.213, 0.1, 0.1]
    """
    schedule = KEPT_SCHEDULES.get(name)
    check_fraction("t", t, least=0.0)
    check_fraction("kept", kept)
    if not 0.0 <= begin <= end <= 1.0:
        raise OptionError(f"the schedule runs from {begin} to {end}; allowed is 0 ≤ begin ≤ end ≤ 1 of the training.")
    if t >= end:
        return kept
    if t <= begin:
        return 1.0
    # Rounding inside a formula must not leave the range.
    return min(1.0, max(kept, schedule((t - begin) / (end - begin), kept)))


def kept_after(kept: float, rounds: int, decay: float = DECAY) -> tuple[float, ...]:
    """Return the share that is left after each round of falling rate; the last is ``kept``.

    Round r removes the share p_r = p_0·decay^r of the rest, with p_0 such that Π_r (1 − p_r) = kept.

    Example:
        >>> [round(share, 3) for share in kept_after(0.5, 3)]
        [0.774, 0.617, 0.5]
    """
    decays = [decay**number for number in range(rounds)]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        left = math.prod(1 - middle * factor for factor in decays)
        low, high = (middle, high) if left > kept else (low, middle)
    shares = [math.prod(1 - low * factor for factor in decays[:number]) for number in range(1, rounds)]
    return (*shares, kept)


def check_fraction(name: str, value: float, *, least: float | None = None) -> None:
    """Raise OptionError unless 0 < value ≤ 1, or ``least`` ≤ value ≤ 1 where a least value is given."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and value <= 1
    if not good or not (value > 0 if least is None else value >= least):
        allowed = "above 0 and up to 1" if least is None else f"{least:g} to 1"
        raise OptionError(f"{name} is {value!r}; allowed: a number {allowed}.")


@KEPT_SCHEDULES.register("one_shot")
def one_shot(s: float, kept: float) -> float:
    """Prune everything at once, right after the beginning.

    Source: own.
    """
    return 1.0 if s <= 0 else kept


@KEPT_SCHEDULES.register("linear")
def linear(s: float, kept: float) -> float:
    """Remove the same number with every step: k(s) = 1 − (1 − kept)·s.

    Source: own.
    """
    return 1.0 - (1.0 - kept) * s


@KEPT_SCHEDULES.register("cubic")
def cubic(s: float, kept: float) -> float:
    """Remove most at first, while the network is redundant: k(s) = kept + (1 − kept)·(1 − s)³.

    Source: Zhu & Gupta, "To prune, or not to prune", arXiv:1710.01878.
    """
    return kept + (1.0 - kept) * (1.0 - s) ** 3


@KEPT_SCHEDULES.register("cosine")
def cosine(s: float, kept: float) -> float:
    """Begin and end slowly: k(s) = kept + (1 − kept)·(1 + cos πs)/2.

    Source: own.
    """
    return kept + (1.0 - kept) * 0.5 * (1.0 + math.cos(math.pi * s))


@KEPT_SCHEDULES.register("geometric")
def geometric(s: float, kept: float) -> float:
    """Keep 0.9 of the rest in each round, in equal distances of time; the last round removes the remainder.

    k(s) = 0.9^⌊s·n⌋ with n = ⌈log kept / log 0.9⌉ rounds.

    Source: own; rounds of equal rate: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.
    """
    if s >= 1.0:
        return kept
    rounds = math.ceil(math.log(kept) / math.log(DECAY) - 1e-9) if kept < 1 else 0
    return max(kept, DECAY ** math.floor(s * rounds + 1e-9))


@KEPT_SCHEDULES.register("steps")
def steps(s: float, kept: float) -> float:
    """Remove in four equal steps, one at the end of each quarter.

    Source: own.
    """
    return kept if s >= 1.0 else 1.0 - (1.0 - kept) * math.floor(s * STEPS + 1e-9) / STEPS
