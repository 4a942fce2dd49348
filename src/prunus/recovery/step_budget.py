"""The budget of a recovery, in steps or in minutes."""

from __future__ import annotations

from dataclasses import dataclass, field

from prunus.foundation import clock
from prunus.foundation.clock import SECONDS_A_MINUTE

EVALUATIONS = 8
"""Number of evaluations on held-out data in an attempt."""


@dataclass(slots=True)
class StepBudget:
    """The budget with the steps spent so far.

    Args:
        steps: total number of optimizer steps.
        minutes: total time; None = as long as the steps take.
    """

    steps: int
    minutes: float | None = None
    spent: int = 0
    _began: float = field(default_factory=lambda: clock.seconds())
    _pace: float = 0.0
    _watching: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return clock.seconds() - self._began

    @property
    def out_of_time(self) -> bool:
        """True if the minutes are over; never for a budget in steps."""
        return self.minutes is not None and self.seconds >= self.minutes * SECONDS_A_MINUTE

    @property
    def left(self) -> int:
        """The number of steps left, estimated from the pace of the steps so far for a budget in minutes."""
        left = self.steps - self.spent
        if self.minutes is None:
            return left
        remaining = self.minutes * SECONDS_A_MINUTE - self.seconds - self._watching
        if remaining <= 0:
            return 0
        return min(left, max(1, int(remaining / self._pace))) if self._pace else left

    def take(self, steps: int, seconds: float, evaluating: float = 0.0, evaluations: int = 0) -> None:
        """Charge the cost of an attempt; its pace is used to plan the rest.

        Args:
            steps: the steps of the attempt.
            seconds: its whole time.
            evaluating: the part of the time that went into evaluations on held-out data.
            evaluations: the number of these evaluations; an attempt to come makes `EVALUATIONS`.
        """
        self.spent += steps
        if steps:
            self._pace = max(seconds - evaluating, 0.0) / steps
        if evaluations:
            self._watching = EVALUATIONS * evaluating / evaluations

    def price(self, steps: int, seconds: float) -> float:
        """Return the cost of an attempt: in steps, or in seconds for a budget in minutes."""
        return max(seconds, 1e-9) if self.minutes is not None else float(max(steps, 1))
