"""Progress: sparse lines where nobody watches, bars on a terminal."""

from __future__ import annotations

import io

from prunus.cli.console import BarProgress, PlainProgress, shown_progress
from prunus.foundation.progress import Progress, Silent


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_intervals() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, interval=5.0, clock=clock)
    progress.start("runs", 10)
    for _ in range(10):
        clock.now += 2.0
        progress.advance("runs")
    progress.finish("runs")
    assert stream.getvalue().splitlines() == [
        "runs: 3/10 (6 s, 14 s to go)",
        "runs: 6/10 (12 s, 8 s to go)",
        "runs: 9/10 (18 s, 2 s to go)",
        "runs: done (20 s)",
    ]


def test_short_and_unknown_tasks_say_nothing() -> None:
    stream = io.StringIO()
    with shown_progress(stream) as progress:
        progress.start("short", 2)
        progress.advance("short", 2)
        progress.finish("short")
        progress.advance("never begun")
        progress.finish("never begun")
    assert stream.getvalue() == ""


def test_bars_on_a_terminal_show_names_as_they_are() -> None:
    stream = Terminal()
    with shown_progress(stream) as progress:
        assert isinstance(progress, BarProgress)
        progress.start("kept [0.5]", 3)
        progress.start("kept [0.5]", 3)
        progress.advance("kept [0.5]")
        progress.advance("never begun")
        progress._bars.refresh()
        progress.finish("kept [0.5]")
        progress.finish("kept [0.5]")
    assert "kept [0.5]" in stream.getvalue()
    assert "1/3" in stream.getvalue()


def test_silence_is_a_progress() -> None:
    progress: Progress = Silent()
    for answer in (progress.start("a", 1), progress.advance("a"), progress.finish("a")):
        assert answer is None
