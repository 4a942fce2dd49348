"""The end of optional work before its time: a limit of seconds, or Ctrl-C, after which the best so far is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prunus.foundation import clock


class Watch:
    """Tells whether optional work has to end; `stoppable` makes one.

    Args:
        seconds: the time that is left; None means no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._limit, self._start = seconds, clock.seconds()
        self.by_hand = False

    @property
    def spent(self) -> float:
        """The seconds since the beginning."""
        return clock.seconds() - self._start

    def over(self) -> str:
        """Return the reason to end, empty as long as there is none."""
        if self.by_hand:
            return f"stopped by hand after {self.spent:.0f} s"
        if self._limit is not None and self.spent >= self._limit:
            return f"stopped at the time limit of {self._limit:g} s"
        return ""


class StoppedError(Exception):
    """Optional work ended before it had a result; it never leaves the place that keeps the best so far."""


@contextmanager
def stoppable(seconds: float | None = None, *, by_hand: bool = True) -> Iterator[Watch]:
    """Yield a watch over a block of optional work.

    Args:
        seconds: the time limit; None means none.
        by_hand: the first Ctrl-C in the main thread is noted on the watch and interrupts nothing; the second one does
            as before. The block looks at the watch between its steps.
    """
    watch = Watch(seconds)
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not by_hand or not in_main or not callable(before):
        yield watch
        return

    def noted(number: int, frame: Any) -> None:
        if watch.by_hand:
            before(number, frame)
        watch.by_hand = True

    signal.signal(signal.SIGINT, noted)
    try:
        yield watch
    finally:
        signal.signal(signal.SIGINT, before)
