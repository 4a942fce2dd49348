"""Kills and errors of the disk: nothing is lost, nothing stays half written, and what was killed ends bit-equal.

Writes the sections of docs/bench/reliability.md about them after each kill. A call with the same seed goes on from the
counts that stand there; another seed adds its counts to them.

Usage: make bench-reliability; a part of it: make bench-reliability ARGS="save --kills 50 --seed 1"
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from counted import Row
from logged import ROOT
from reliability.disk import disk_errors
from reliability.kills import COUNTS, kills
from reliability.page import stored_kills, write_errors, write_kills
from reliability.tasks import IO, TASKS


def main() -> None:
    """Run the tasks that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="bench_reliability", description=__doc__)
    parser.add_argument("tasks", nargs="*", help=f"any of {', '.join(TASKS)}, io; all by default")
    parser.add_argument(
        "--kills", type=int, default=200, help="of save with this seed; a quarter of them of other tasks"
    )
    parser.add_argument("--errors", type=int, default=100, help="injected errors of each kind, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anew", action="store_true", help="drop the stored counts of these tasks with this seed")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    requested = given.tasks or [*TASKS, "io"]
    rows: list[Row] = []
    for name in (n for n in requested if n in TASKS):
        count = given.kills if name == "save" else max(1, given.kills // 4)
        rows.append(_killed(name, count, given))
        sys.stderr.write(f"{name}: {rows[-1]}\n")
    if "io" in requested:
        found = {name: disk_errors(*make(), given.errors) for name, make in IO.items()}
        failed = {f"{error}, {name}": row for name, errors in found.items() for error, row in errors.items()}
        sys.stderr.write(f"io: {failed}\n")
        write_errors(given.docs, failed)
        rows += failed.values()
    sys.exit(any(row[key] for row in rows for key in _BAD if key in row))


def _killed(name: str, count: int, given: argparse.Namespace) -> Row:
    stored = None if given.anew else stored_kills(given.docs, name, given.seed)
    counts = stored or dict.fromkeys(COUNTS, 0)
    for more in kills(TASKS[name](), count, given.seed, counts):
        counts = more
        write_kills(given.docs, name, given.seed, counts)
    return counts


_BAD = ("lost", "half", "unequal", "left", "foreign")


if __name__ == "__main__":
    main()
