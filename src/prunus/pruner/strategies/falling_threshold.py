"""A threshold on gradients that falls by a factor with each pruning, and the corridor that keeps it to a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunus.errors import OptionError, nearest
from prunus.pruner.options import Moment
from prunus.pruner.strategy import check_range
from prunus.training.schedules import DECAY, linear

PER = ("change", "part")
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """The settings of a strategy that compares gradients with a falling threshold.

    Attributes:
        threshold: the first value of τ. It alone decides then, and ``kept`` is the least share that stays. None begins
            with the value that divides as the schedule does at the first change, and the budget is met exactly.
        decay: the factor on τ, 0.9 as in the texts.
        per: ``change`` lowers τ once in each change that prunes; ``part`` lowers it after every single part, as the
            pseudo-code of the texts does.
    """

    threshold: float | None = None
    decay: float = DECAY
    per: str = "change"

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_range("a threshold on gradients", "threshold", self.threshold, 0.0, math.inf)
        check_range("a threshold on gradients", "decay", self.decay, 0.0, 1.0)
        if self.per not in PER:
            raise OptionError(
                f"setting 'per' of a threshold on gradients is {self.per!r}.{nearest(str(self.per), PER)} Allowed: "
                f"{', '.join(PER)}."
            )


class FallingThreshold:
    """τ, its fall, and the bounds of the kept share around it.

    The parts below τ go. Without a threshold of the user's the kept share stays between the schedule and the
    straight line to the same end, so that the budget is met; with one, only the final share bounds it from below.
    """

    def __init__(self, settings: ThresholdSettings) -> None:
        self.settings = settings
        self.tau: float | None = settings.threshold
        self.checked = False

    @property
    def decides(self) -> bool:
        """Return whether the user gave τ, so that the budget follows from it."""
        return self.settings.threshold is not None

    def bounds(self, moment: Moment, final: float) -> tuple[float, float]:
        """Return the least and the largest kept share after a change."""
        if self.decides:
            return final, 1.0
        return moment.kept, max(moment.kept, linear(moment.t, final))

    def below(self, values: np.ndarray) -> np.ndarray:
        """Return which values lie below τ, one after another where every part lowers it. Shapes: (N,) → (N,)."""
        if self.settings.per == "change":
            return values < self._tau
        taken, self.tau = one_by_one(values, self._tau, self.settings.decay)
        return taken

    def above(self, values: np.ndarray) -> np.ndarray:
        """Return which values exceed τ, one after another where every kept part lowers it. Shapes: (N,) → (N,)."""
        if self.settings.per == "change":
            return values > self._tau
        kept = np.zeros(len(values), bool)
        for index, value in enumerate(values):
            kept[index] = value > self._tau
            if kept[index]:
                self.tau = self._tau * self.settings.decay
        return kept

    def pruned(self, anything: bool) -> None:
        """Lower τ after a change that pruned something."""
        if anything and self.settings.per == "change":
            self.tau = self._tau * self.settings.decay

    @property
    def _tau(self) -> float:
        assert self.tau is not None
        return self.tau

    def state(self) -> dict[str, Any]:
        """Return τ, and whether it was compared with the first gradients."""
        return {"tau": self.tau, "checked": self.checked}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore τ."""
        self.tau = None if state["tau"] is None else float(state["tau"])
        self.checked = bool(state["checked"])


def one_by_one(values: np.ndarray, tau: float, decay: float) -> tuple[np.ndarray, float]:
    """Take the values below τ in their order, where every value taken multiplies τ; return them and the last τ.

    Example:
        >>> one_by_one(np.array([0.05, 0.095, 0.08]), 0.1, 0.9)[0].tolist()  # τ is 0.1, then 0.09
        [True, False, True]
    """
    taken = np.zeros(len(values), bool)
    left = np.flatnonzero(values < tau)
    while len(left):
        for index in left[:_BLOCK]:
            if values[index] < tau:
                taken[index] = True
                tau *= decay
        rest = left[_BLOCK:]
        left = rest[values[rest] < tau]
    return taken, tau


def quantile(values: np.ndarray, kept: float) -> float:
    """Return the value below which all but the share ``kept`` of the values lie."""
    return float(np.quantile(values, min(1.0, max(0.0, 1.0 - kept)))) if len(values) else 0.0
