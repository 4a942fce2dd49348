"""Fuzz every reader of prunus: recipes, plans, checkpoints, training checkpoints and `.pt2` programs.

Each batch runs in a process of its own with 1 GB of address space beyond its imports and 5 s of processor time an
input. Half of the inputs are damaged bytes, half are made from the grammar of the file with every checksum right.
Inputs that fail are kept in --kept; --again reads all that are kept. The counts go into docs/bench/reliability.md
after each batch. A call with the same seed goes on from the counts that stand there until it has COUNT inputs; another
seed adds its counts to them. So a long run can be done in parts, and readers one by one.

Usage: make fuzz COUNT=20000 SEED=1; one reader: make fuzz COUNT=20000 SEED=1 ARGS=training
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counted import Row, summed
from fuzz.page import stored_row, write_row
from logged import ROOT

NAMES = (
    *("recipe", "plan", "checkpoint", "training", "pt2"),
    *("results", "runs", "trained", "times", "huggingface"),
)
BATCH, WALL = 1000, 1800
Batch = dict[str, Any]


def main() -> int:
    """Run the readers that are named, write the page after each batch, return 1 where an input failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=list(NAMES), help=f"of {', '.join(NAMES)}; all where none")
    parser.add_argument("--count", type=int, default=20_000, help="inputs for each reader with this seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "fuzz")
    parser.add_argument("--docs", type=Path, help="where the page goes; none is written where absent")
    parser.add_argument("--anew", action="store_true", help="drop the stored counts of these readers with this seed")
    parser.add_argument("--again", action="store_true", help="read what was kept, and draw nothing")
    given = parser.parse_args()
    if given.again:
        return read_again(given.kept)
    rows = [run_reader(name, given) for name in given.readers]
    return 1 if any(row["failures"] for row in rows) else 0


def run_reader(name: str, given: argparse.Namespace) -> Row:
    """Run the batches of one reader that its stored counts lack; each is added to them when it ends."""
    start = time.time()
    stored = None if given.anew else stored_row(given.docs, name, given.seed)
    row = stored or {"requested": 0, "batches": 0, "inputs": 0, "refused": 0, "loaded": 0, "failures": {}}
    row.setdefault("slowest_s", 0.0)
    sizes = [min(BATCH, given.count - at) for at in range(row["requested"], given.count, BATCH)]
    jobs = enumerate(sizes, given.seed * 100_000 + row["batches"])
    with ThreadPoolExecutor(given.workers) as pool:
        # In their order, so that the counts are those of the first so many batches wherever the run is stopped.
        for size, batch in zip(sizes, pool.map(lambda job: _batch(name, *job, given.kept), jobs), strict=True):
            row = _added(row, size, batch)
            if given.docs is not None:
                write_row(given.docs, name, given.seed, row)
    print(name, json.dumps(row), f"{time.time() - start:.0f} s", flush=True)
    return row


def _added(row: Row, size: int, batch: Batch) -> Row:
    counts = batch["counts"]
    more = {
        "requested": size,
        "batches": 1,
        "inputs": sum(counts.values()),
        "refused": counts.get("refused", 0),
        "loaded": counts.get("loaded", 0),
        "failures": {kind: n for kind, n in sorted(counts.items()) if kind not in ("loaded", "refused")},
        "slowest_s": batch["slowest"],
    }
    return summed({"so far": row, "more": more})


def _batch(name: str, seed: int, count: int, kept: Path) -> Batch:
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "fuzz.worker", name, str(seed), str(count), place]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WALL, check=False)
            error = None if done.returncode == 0 else f"died {done.returncode}"
        except subprocess.TimeoutExpired:
            error = "hang of the process"
        for found in (Path(place) / "kept").glob("*/*"):
            shutil.copytree(found, kept / name / found.name, dirs_exist_ok=True)
        if error is None:
            found_counts: Batch = json.loads(done.stdout.splitlines()[-1])
            return found_counts
        if not (Path(place) / "now").exists():
            raise RuntimeError(f"the worker of {name} ended before its first input: {done.stderr[-800:]}")
        # What was being read when the process ended is the input that ended it.
        shutil.copytree(Path(place) / "now", kept / name / f"died-{seed}" / "files", dirs_exist_ok=True)
        return {"counts": {f"{error} {seed}": 1}, "slowest": 0.0}


def read_again(kept: Path) -> int:
    """Read every input that was kept; print what comes of each, return 1 where one fails."""
    from fuzz.readers import READERS
    from fuzz.worker import outcome_of

    bad = 0
    for place in sorted(kept.glob("*/*/files")):
        name = place.parent.parent.name
        outcome, _ = outcome_of(lambda name=name, place=place: READERS[name].read(place))
        bad += outcome not in ("loaded", "refused")
        print(name, place.parent.name, outcome, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
