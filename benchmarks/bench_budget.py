"""Budgets over all levels: exactness, speed of allocation, milliseconds, several scales against one.

Writes docs/bench/budget.md and .json. Usage: make bench-budget; one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from budget import exact, latency, scales
from budget.page import claims, page

ROOT = Path(__file__).resolve().parent.parent
LATENCY_NETS = ("resnet18", "glyphs/resnet-8x", "vit_b_32", "glyphs/vit-8x")
KEPT = {
    "digits": {"bytes": (0.15,), "latency_ms": (0.6,)},
    "glyphs/resnet": {"bytes": (0.3,), "latency_ms": (0.6,)},
}
AGAINST = {"glyphs/resnet": 5, "glyphs/vgg": 1, "glyphs/vit": 1}
"""How many trained networks of each kind are pruned for milliseconds and for MACs."""
Work = Callable[[], dict[str, Any]]


def jobs(seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first."""
    yield "tree/500", lambda: exact.tree_seconds(480, 16)
    for name in exact.NETS:
        yield f"exact/{name}", lambda name=name: exact.price_and_count(name)
    for name in LATENCY_NETS:
        yield f"meet/{name}", lambda name=name: latency.meet(name, 0.5)
        yield f"predict/{name}", lambda name=name: latency.predict(name, 8)
    yield "search/glyphs/resnet", lambda: exact.search_seconds(300)
    for name, count in AGAINST.items():
        for seed in range(count):
            yield f"against/{name}/{seed}", lambda n=name, s=seed: latency.against_macs(n, 0.5, s)
    for seed in range(seeds):
        for workload, metric, kept in cells():
            for method in scales.methods_for(metric):
                yield (
                    f"scales/{workload}/{metric}/{method}/{kept}/{seed}",
                    lambda w=workload, b=metric, m=method, k=kept, s=seed: scales.measure(w, b, m, k, s),
                )


def cells() -> Iterator[tuple[str, str, float]]:
    """Yield every workload, metric and kept share at which methods meet."""
    for workload, metrics in KEPT.items():
        for metric, shares in metrics.items():
            yield from ((workload, metric, kept) for kept in shares)


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="beginnings of names, such as meet or scales/digits; all where none")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "budget.jsonl")
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
            told = {k: v for k, v in rows[name].items() if k not in ("correct", "points")}
            print(name, json.dumps(told), flush=True)
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    about = {"torch": torch.__version__, "cpu": cpu or platform.machine()}
    given.docs.mkdir(parents=True, exist_ok=True)
    told = {k: {f: v for f, v in r.items() if f != "correct"} for k, r in rows.items()}
    found = {"about": about, "claims": claims(rows, given.seeds), "rows": told}
    (given.docs / "budget.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.docs / "budget.md").write_text(page(rows, about, given.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
