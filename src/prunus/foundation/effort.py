"""The effort of what prunus does beyond the cut: how much work is tried, in how much time and memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from prunus.errors import OptionError, nearest
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.free_memory import default_memory

EFFORTS = ("seconds", "minutes", "best")
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True, slots=True)
class Effort:
    """The effort of scores, repairs and searches.

    What is tried depends on ``level`` and on counted work (multiply-accumulates), never on the clock, so the same call
    gives the same network on every machine. ``time_limit`` alone looks at the clock: what is best then is kept.

    Attributes:
        level: ``seconds``: closed-form repairs alone; ``minutes``: then rounds of matching while they pay; ``best``:
            all repairs, with up to sixteen times the work.
        time_limit: seconds after which optional work ends; None means no limit.
        memory_limit: bytes for calibration samples and their statistics; None means a quarter of what is free, rounded
            down to a power of two.
        by_hand: Ctrl-C ends the optional work and keeps the best so far; a second one interrupts. Otherwise the first
            one interrupts.
    """

    level: str = DEFAULTS.effort
    time_limit: float | None = None
    memory_limit: int | None = None
    by_hand: bool = True

    @staticmethod
    def of(level: Any = DEFAULTS.effort, time_limit: Any = None, memory_limit: Any = None) -> Effort:
        """Return the effort of three options.

        Raises:
            OptionError: an unknown level, or a limit that is no time or no size.
        """
        if level not in EFFORTS:
            raise OptionError(f"effort is {level!r}.{nearest(str(level), EFFORTS)} Allowed: {', '.join(EFFORTS)}.")
        seconds = None if time_limit is None else _seconds(time_limit)
        return Effort(level, seconds, None if memory_limit is None else _bytes(memory_limit))

    def after(self, seconds: float) -> Effort:
        """Return the effort that is left where some seconds of its time are spent."""
        return self if self.time_limit is None else replace(self, time_limit=max(0.0, self.time_limit - seconds))

    @property
    def scale(self) -> float:
        """The work that is allowed, in parts of that of ``minutes``."""
        return {"seconds": 0.1, "minutes": 1.0, "best": 16.0}[self.level]

    @property
    def memory(self) -> int:
        """The bytes that calibration samples and their statistics may take."""
        return default_memory() if self.memory_limit is None else self.memory_limit


def _seconds(given: Any) -> float:
    """Return a time limit in seconds: a number, or a text such as ``"90s"``, ``"5min"``, ``"2h"``."""
    number = given
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(s|sec|min|h)?\s*", given)
        number = float(match[1]) * _SECONDS[match[2] or "s"] if match else None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number <= 0:
        raise OptionError(
            f"time_limit is {given!r}; allowed: seconds above 0, such as 90, or a text such as '90s', '5min' or '2h'."
        )
    return float(number)


def _bytes(given: Any) -> int:
    """Return a memory limit in bytes: a number, or a text such as ``"4GB"``."""
    number = given
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([A-Za-z]+)?\s*", given)
        unit = _BYTES.get((match[2] or "b").lower()) if match else None
        number = int(float(match[1]) * unit) if match and unit else None
    if isinstance(number, bool) or not isinstance(number, int) or number <= 0:
        raise OptionError(
            f"memory_limit is {given!r}; allowed: a whole number of bytes above 0, or a text such as '4GB' or '512MiB'."
        )
    return number
