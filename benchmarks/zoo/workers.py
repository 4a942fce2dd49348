"""Run trials in forked processes, each with its own time and memory limit; finished ones are never run again."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .catalog import Entry

Trial = Callable[[Entry], dict[str, Any]]
# A process that has not used up its processor time after so many times that long is waiting for something.
STALLED = 6
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may use; ``seconds`` are of processor time, so that a busy machine fails nobody."""

    seconds: float = 300.0
    gigabytes: float = 12.0
    niceness: int = 15
    processes: int = 2


@dataclass(slots=True)
class _Job:
    entry: Entry
    process: Any
    pipe: Connection
    deadline: float


Records = dict[tuple[str, str, str], dict[str, Any]]


def read_records(path: Path) -> Records:
    """Read finished trials as (mode, zoo, model) → record, the last one winning; a line cut short is ignored."""
    found: Records = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["mode"], record["zoo"], record["model"]] = record
    return found


def run_all(todo: Iterable[Entry], mode: str, trial: Trial, limits: Limits, log: Path) -> Iterator[dict[str, Any]]:
    """Run every trial and yield its record once it is safely in the log."""
    waiting, running = list(todo), list[_Job]()
    while waiting or running:
        while waiting and len(running) < (1 if _alone(waiting[0], running) else limits.processes):
            running.append(_start(waiting.pop(0), trial, limits))
        wait([job.pipe for job in running], timeout=0.5)
        for job in list(running):
            record = _finished(job, limits)
            if record is None:
                continue
            record.setdefault("mode", mode)
            running.remove(job)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            yield record


def _alone(entry: Entry, running: list[_Job]) -> bool:
    """Giants run by themselves: two at once do not fit a small machine."""
    return entry.giant or any(job.entry.giant for job in running)


def _start(entry: Entry, trial: Trial, limits: Limits) -> _Job:
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_child, args=(entry, trial, limits, theirs))
    process.start()
    theirs.close()
    return _Job(entry, process, ours, time.monotonic() + STALLED * limits.seconds)


def _child(entry: Entry, trial: Trial, limits: Limits, pipe: Connection) -> None:
    os.nice(limits.niceness)
    size = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limits.seconds), int(limits.seconds) + 1))
    pipe.send(trial(entry))
    pipe.close()


def _finished(job: _Job, limits: Limits) -> dict[str, Any] | None:
    base = {"zoo": job.entry.zoo, "model": job.entry.name, "ok": False, "stage": "process"}
    record: dict[str, Any] | None = None
    if job.pipe.poll():
        try:
            record = job.pipe.recv()
        except EOFError:
            job.process.join()
            late = job.process.exitcode == -signal.SIGXCPU
            reason = f"over {limits.seconds:.0f} s" if late else f"the process ended with code {job.process.exitcode}"
            record = base | {"error": reason}
    elif time.monotonic() > job.deadline:
        job.process.kill()
        record = base | {"error": f"stalled for {STALLED * limits.seconds:.0f} s"}
    if record is not None:
        job.process.join()
        job.pipe.close()
    return record
