"""``prunus train-workload NAME``: train a built-in model once, and store it for later runs."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from prunus.cli.options import DebugOption

if TYPE_CHECKING:
    from prunus.experiments.workloads.store import EpochScore
    from prunus.experiments.workloads.train import Trained, Watch


def train_workload(
    name: Annotated[str, typer.Argument(help="A built-in model, such as glyphs/resnet-8x.", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of the weights and of the training.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="Walks through the training data; left out: the workload's own length.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the checkpoint; left out: a place in the user's cache.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Train even if the checkpoint is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the whole training record as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Train a built-in model and keep it; a second call finds it there."""
    from prunus.experiments.workloads import train_workload as train

    with _cache_warnings_said(), _shown(name, sys.stderr) as watch:
        found = train(name, seed, epochs=epochs, folder=out, again=again, watch=watch)
    sys.stdout.write(_as_json(found) if json else _told(found))
    sys.stderr.write(f"checkpoint: {found.folder}\n")


def _as_json(found: Trained) -> str:
    from dataclasses import asdict
    from json import dumps

    return dumps({**asdict(found.record), "cached": found.cached, "folder": str(found.folder)}, indent=1) + "\n"


def _told(found: Trained) -> str:
    record = found.record
    how = "was there already" if found.cached else f"trained in {record.seconds:.0f} s"
    return (
        f"model      {record.workload} ({record.params:,} parameters), seed {record.seed}\n"
        f"training   {record.epochs} epochs, {how}\n"
        f"selection  {record.selection_accuracy:.2%}\n"
        f"test       {record.test_accuracy:.2%}, {record.test_nll / log(2):.3f} bits per target\n"
    )


@contextmanager
def _cache_warnings_said() -> Iterator[None]:
    """Show warnings of the cache as lines, though the command line hides other warnings."""
    from prunus.foundation.cache import CacheWarning

    def say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, CacheWarning):
            sys.stderr.write(f"prunus: {' '.join(str(message).split())}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always", CacheWarning)
        warnings.showwarning = say  # restored by catch_warnings
        yield


@contextmanager
def _shown(name: str, stream: TextIO) -> Iterator[Watch]:
    """Yield a watcher that draws a bar on a terminal, and writes a line after each epoch elsewhere."""
    if not stream.isatty():
        yield _lines(name, stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[score]}"),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task(name, total=None, score="")

        def watch(done: int, steps: int, latest: EpochScore | None) -> None:
            bars.update(task, completed=done, total=steps, score=_score(latest))

        yield watch


def _lines(name: str, stream: TextIO) -> Watch:
    began, spoken = time.monotonic(), 0

    def watch(done: int, steps: int, latest: EpochScore | None) -> None:
        nonlocal spoken
        if latest is None or latest.epoch == spoken:
            return
        spoken = latest.epoch
        spent = time.monotonic() - began
        left = f"{spent:.0f} s, {spent / done * (steps - done):.0f} s left"
        stream.write(f"{name}: step {done}/{steps} ({left}), {_score(latest)}\n")
        stream.flush()

    return watch


def _score(latest: EpochScore | None) -> str:
    if latest is None:
        return ""
    return f"selection loss {latest.selection_nll:.3f}, accuracy {latest.selection_accuracy:.2%}"
