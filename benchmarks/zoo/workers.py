"""Run trials in forked processes, each with its own time and memory limit; finished ones are never run again."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from .catalog import Entry

Task = tuple[Entry, tuple[str, ...]]
Trial = Callable[[Entry, tuple[str, ...]], list[dict[str, Any]]]
# A process that has not used up its processor time after so many times that long is waiting for something.
STALLED = 6
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model may use; ``seconds`` are of processor time, so that a busy machine fails nobody."""

    seconds: float = 600.0
    gigabytes: float = 12.0
    niceness: int = 15
    processes: int = 2

    @classmethod
    def options(cls, parser: argparse.ArgumentParser) -> None:
        """Add an option for each limit."""
        for item in fields(cls):
            parser.add_argument(f"--{item.name}", type=type(item.default), default=item.default)

    @classmethod
    def of(cls, given: argparse.Namespace) -> Limits:
        """Return what was asked for."""
        return cls(**{item.name: getattr(given, item.name) for item in fields(cls)})


@dataclass(slots=True)
class _Job:
    task: Task
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


def run_all(todo: Iterable[Task], trial: Trial, limits: Limits, log: Path) -> Iterator[dict[str, Any]]:
    """Run every trial and yield its records, one a mode, once they are safely in the log."""
    waiting, running = list(todo), list[_Job]()
    while waiting or running:
        while waiting and len(running) < (1 if _alone(waiting[0][0], running) else limits.processes):
            running.append(_start(waiting.pop(0), trial, limits))
        wait([job.pipe for job in running], timeout=0.5)
        for job in list(running):
            records = _finished(job, limits)
            if records is None:
                continue
            running.remove(job)
            with log.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
            yield from records


def _alone(entry: Entry, running: list[_Job]) -> bool:
    """Giants run by themselves: two at once do not fit a small machine."""
    return entry.giant or any(job.task[0].giant for job in running)


def _start(task: Task, trial: Trial, limits: Limits) -> _Job:
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_child, args=(task, trial, limits, theirs))
    process.start()
    theirs.close()
    return _Job(task, process, ours, time.monotonic() + STALLED * limits.seconds)


def _child(task: Task, trial: Trial, limits: Limits, pipe: Connection) -> None:
    os.nice(limits.niceness)
    size = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (int(limits.seconds), int(limits.seconds) + 1))
    pipe.send(trial(*task))
    pipe.close()


def _finished(job: _Job, limits: Limits) -> list[dict[str, Any]] | None:
    entry, modes = job.task
    error, records = "", None
    if job.pipe.poll():
        try:
            records = job.pipe.recv()
        except EOFError:
            job.process.join()
            late = job.process.exitcode == -signal.SIGXCPU
            error = f"over {limits.seconds:.0f} s" if late else f"the process ended with code {job.process.exitcode}"
    elif time.monotonic() > job.deadline:
        job.process.kill()
        error = f"stalled for {STALLED * limits.seconds:.0f} s"
    if error:
        base = {"zoo": entry.zoo, "model": entry.name, "ok": False, "stage": "process", "error": error}
        records = [base | {"mode": mode} for mode in modes]
    if records is not None:
        job.process.join()
        job.pipe.close()
    return records
