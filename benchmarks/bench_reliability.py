"""Kills and errors of the disk: nothing is lost, nothing stays half written, and what was killed ends bit-equal.

Writes the sections of docs/bench/reliability.md about them. Usage: make bench-reliability; --kills 20 for a short run.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from logged import ROOT
from reliability.disk import disk_errors
from reliability.kills import kills
from reliability.page import write_page
from reliability.tasks import TASKS, save_task


def main() -> None:
    """Run the tasks that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="bench_reliability", description=__doc__)
    parser.add_argument("tasks", nargs="*", help=f"any of {', '.join(TASKS)}, io; all by default")
    parser.add_argument("--kills", type=int, default=200, help="of save; a quarter as many of each other task")
    parser.add_argument("--errors", type=int, default=100, help="injected errors of each kind, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    requested = given.tasks or [*TASKS, "io"]
    killed = {}
    for name in (n for n in requested if n in TASKS):
        count = given.kills if name == "save" else max(1, given.kills // 4)
        killed[name] = kills(TASKS[name](), count, given.seed)
        sys.stderr.write(f"{name}: {killed[name]}\n")
    failed = disk_errors(save_task((0.7,)), save_task((0.4,)), given.errors) if "io" in requested else {}
    sys.stderr.write(f"io: {failed}\n")
    write_page(given.docs, killed, failed)
    bad = sum(value for row in (*killed.values(), *failed.values()) for key, value in row.items() if key in _BAD)
    sys.exit(bool(bad))


_BAD = ("lost", "half", "unequal", "left", "foreign")


if __name__ == "__main__":
    main()
