"""Kill −9 at random moments of a task, and the count of what was lost, half written, or resumed unequal."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability.tasks import Task

COUNTS = ("kills", "early", "lost", "half", "unequal", "left")


def kills(task: Task, count: int, seed: int, counts: dict[str, int]) -> Iterator[dict[str, int]]:
    """Kill a task until ``count`` kills are counted, call it again after each, and compare with a run without a kill.

    Yields the counts after each kill. Every trial draws from its own number and the seed, so that a run which goes on
    from counts of an earlier one ends with the same draws.

    ``lost``: a file that stood before is gone. ``half``: what stands after the kill cannot be read whole. ``unequal``:
    the second call ends with another result. ``left``: temporary files stay after the second call.
    """
    if counts["kills"] >= count:
        return
    counts = dict(counts)
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        _in_child(lambda: task.run(_fresh(Path(name) / "whole")))
        seconds = time.monotonic() - started
        expected = task.whole(Path(name) / "whole")
        if expected is None:
            raise RuntimeError("the task wrote nothing")
        while counts["kills"] < count:
            dice = random.Random(f"{seed} {counts['kills'] + counts['early']}")
            folder = _fresh(Path(name) / "killed")
            stands = dice.random() < 0.5
            if stands:
                shutil.copytree(Path(name) / "whole", folder, dirs_exist_ok=True)
            if not _in_child(lambda place=folder: task.run(place), dice.uniform(0, seconds)):
                counts["early"] += 1  # it had ended before the kill
                continue
            counts["kills"] += 1
            _count(task, folder, expected, stands, counts)
            yield dict(counts)


def _count(task: Task, folder: Path, expected: str, stands: bool, counts: dict[str, int]) -> None:
    try:
        counts["lost"] += stands and task.whole(folder) is None
    except Exception:
        counts["half"] += 1
    _in_child(lambda: task.run(folder))
    try:
        counts["unequal"] += task.whole(folder) != expected
    except Exception:
        counts["unequal"] += 1
    counts["left"] += any(path.name.endswith((".tmp", ".old")) for path in folder.rglob(".*"))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _in_child(work: Callable[[], object], after: float | None = None) -> bool:
    """Run work in a child, which is killed after some seconds; return True if it was."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
