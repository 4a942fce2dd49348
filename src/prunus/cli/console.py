"""Progress for people: bars on a terminal, plain lines elsewhere, both on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from prunus.foundation.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a `Progress` that draws bars where ``stream`` is a terminal, and writes plain lines where it is not."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("to go"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream), transient=True) as bars:
        yield BarProgress(bars)


class BarProgress:
    """Shows each task as a bar that disappears when the task ends."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def start(self, task: str, total: int) -> None:
        """Draw a new bar."""
        self.finish(task)
        from rich.markup import escape

        self._ids[task] = self._bars.add_task(escape(task), total=total)

    def advance(self, task: str, n: int = 1) -> None:
        """Lengthen the bar; a task that was not begun has none."""
        if task in self._ids:
            self._bars.advance(self._ids[task], n)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(self, task: str) -> None:
        """Remove the bar."""
        if task in self._ids:
            self._bars.remove_task(self._ids.pop(task))


@dataclass(slots=True)
class _Task:
    total: int
    began: float
    spoke: float
    done: int = 0


class PlainProgress:
    """Writes a line when a long task advances, at most one for each task in ``interval`` seconds."""

    def __init__(self, stream: TextIO, interval: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._interval = interval
        self._clock = clock
        self._tasks: dict[str, _Task] = {}

    def start(self, task: str, total: int) -> None:
        """Note the beginning, without a line."""
        now = self._clock()
        self._tasks[task] = _Task(total, began=now, spoke=now)

    def advance(self, task: str, n: int = 1) -> None:
        """Count the steps, and write a line if the last one is ``interval`` seconds old."""
        state = self._tasks.get(task)
        if state is None:
            return
        state.done += n
        now = self._clock()
        if now - state.spoke >= self._interval:
            state.spoke = now
            spent = now - state.began
            left = spent / state.done * max(0, state.total - state.done)
            self._line(f"{task}: {state.done}/{state.total} ({spent:.0f} s, {left:.0f} s to go)")

    def finish(self, task: str) -> None:
        """Write a line if the task took ``interval`` seconds or more."""
        state = self._tasks.pop(task, None)
        if state is not None and self._clock() - state.began >= self._interval:
            self._line(f"{task}: done ({self._clock() - state.began:.0f} s)")

    def note(self, text: str) -> None:
        """Write a line at once."""
        self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
