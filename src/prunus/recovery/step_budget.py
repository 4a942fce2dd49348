"""The budget of a recovery, in steps or in minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

SECONDS_A_MINUTE = 60.0


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
    _began: float = field(default_factory=time.perf_counter)
    _pace: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

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
        remaining = self.minutes * SECONDS_A_MINUTE - self.seconds
        if remaining <= 0:
            return 0
        return min(left, max(1, int(remaining / self._pace))) if self._pace else left

    def take(self, steps: int, seconds: float) -> None:
        """Charge the cost of an attempt; its pace is used to plan the rest."""
        self.spent += steps
        if steps:
            self._pace = seconds / steps

    def price(self, steps: int, seconds: float) -> float:
        """Return the cost of an attempt: in steps, or in seconds for a budget in minutes."""
        return max(seconds, 1e-9) if self.minutes is not None else float(max(steps, 1))
