"""What is left of a recovery's budget, in steps or in seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

SECONDS_A_MINUTE = 60.0


@dataclass(slots=True)
class StepBudget:
    """A budget being spent.

    Args:
        steps: how many optimizer steps there are in all.
        minutes: how long it may take in all; None = as long as the steps take.
        clock: tells seconds.
    """

    steps: int
    minutes: float | None = None
    spent: int = 0
    _began: float = field(default_factory=time.perf_counter)
    _pace: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been open."""
        return time.perf_counter() - self._began

    @property
    def out_of_time(self) -> bool:
        """Whether the minutes are over; never where the budget is in steps."""
        return self.minutes is not None and self.seconds >= self.minutes * SECONDS_A_MINUTE

    @property
    def left(self) -> int:
        """How many steps can still be taken, by the pace of those taken so far."""
        left = self.steps - self.spent
        if self.minutes is None:
            return left
        remaining = self.minutes * SECONDS_A_MINUTE - self.seconds
        if remaining <= 0:
            return 0
        return min(left, max(1, int(remaining / self._pace))) if self._pace else left

    def take(self, steps: int, seconds: float) -> None:
        """Book what an attempt took; its pace is what the rest is planned by."""
        self.spent += steps
        if steps:
            self._pace = seconds / steps

    def price(self, steps: int, seconds: float) -> float:
        """Return what an attempt cost in the budget's own unit: steps, or seconds where the budget is in minutes."""
        return max(seconds, 1e-9) if self.minutes is not None else float(max(steps, 1))
