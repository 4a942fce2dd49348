"""Pruning while training: what the hooks cost, what a cut costs, what gradual pruning loses.

Writes docs/bench/training.md and .json. Usage: make bench-training; one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training import costs, gradual
from training.page import claims, page

ROOT = Path(__file__).resolve().parent.parent
NETS = ("digits", "glyphs/resnet-8x", "text/transformer-8x", "speech/mlp-8x")
"""Networks with many more weights than their task needs."""
KEPT = 0.1
Work = Callable[[], dict[str, Any]]


def jobs(seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first."""
    for method in ("gradual", "dynamic-threshold", "granet", "movement"):
        yield f"overhead/{method}", lambda m=method: costs.overhead(m, batch=16, side=64, steps=17)
    for proved in (False, True):
        yield f"cut/{'proved' if proved else 'unproved'}", lambda p=proved: costs.cut(p)
    for seed in range(seeds):
        for net in NETS:
            for method in ("gradual", "one-shot"):
                yield f"gradual/{net}/{method}/{seed}", lambda n=net, m=method, s=seed: gradual.measure(n, m, KEPT, s)


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="beginnings of names, such as cut or overhead/gradual; all where none")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "training.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    rows = {r["name"]: r["found"] for r in done}
    for name, work in jobs(given.seeds):
        wanted = not given.only or any(name.startswith(start) for start in given.only)
        if name not in rows and wanted:
            rows[name] = work()
            with given.log.open("a") as stream:
                stream.write(json.dumps({"name": name, "found": rows[name]}) + "\n")
            print(name, json.dumps(rows[name]), flush=True)
    about = {"torch": torch.__version__, "cpu": _processor()}
    given.docs.mkdir(parents=True, exist_ok=True)
    found = {"about": about, "claims": claims(rows), "rows": rows}
    (given.docs / "training.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.docs / "training.md").write_text(page(rows, about), encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


if __name__ == "__main__":
    main()
