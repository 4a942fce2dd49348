"""The clock of every training, and limits of its time; tests put a clock of their own in the place of `seconds`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from prunus.errors import OptionError

SECONDS_A_MINUTE = 60.0
NO_LIMIT = 100_000
"""The number of steps where minutes limit a training; the time is expected to end first."""


def seconds() -> float:
    """Return the seconds of a clock that never goes back."""
    return time.perf_counter()


@dataclass(slots=True)
class TimeLimit:
    """A training's time in minutes, and the part of it that is spent; it begins when the record is made.

    Attributes:
        minutes: the whole time.
        earlier: seconds that were spent before, in a training that is resumed.

    Raises:
        OptionError: minutes is no number above 0.
    """

    minutes: float
    earlier: float = 0.0
    _began: float = field(default_factory=lambda: seconds())

    def __post_init__(self) -> None:
        good = isinstance(self.minutes, int | float) and not isinstance(self.minutes, bool)
        if not good or not 0 < self.minutes < float("inf"):
            raise OptionError(f"minutes is {self.minutes!r}; allowed: a number above 0, such as 10 or 0.5.")

    @property
    def spent(self) -> float:
        """Seconds since the beginning, with the earlier ones."""
        return self.earlier + seconds() - self._began

    @property
    def share(self) -> float:
        """The spent part of the time, from 0 to 1."""
        return min(1.0, max(0.0, self.spent / (self.minutes * SECONDS_A_MINUTE)))

    @property
    def over(self) -> bool:
        """True if the time is spent."""
        return self.share >= 1.0

    def resume(self, earlier: float) -> None:
        """Continue a limit of which ``earlier`` seconds were spent in another process; the clock begins anew."""
        self.earlier, self._began = earlier, seconds()
