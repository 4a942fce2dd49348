"""One shot without labels: cells against Torch-Pruning, the ladder, sample counts, solvers, cost.

Writes docs/bench/oneshot.md and .json. Usage: make bench-oneshot; one that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from oneshot import costs, ours, peer
from oneshot.networks import NOISE
from oneshot.page import claims, page

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("resnet", "vgg", "mobilenet", "vit")
SIZES = ("", "-8x")
KEPT = (0.5, 0.25)
LADDER = ("glyphs/resnet-8x", "glyphs/mobilenet", "glyphs/vit")
SAMPLES: tuple[int | str, ...] = (32, 128, 512, 2048, NOISE)
HELD_BACK = ("correct", "dense_correct")
"""What stays in the log: the answers to every test image."""
Work = Callable[[], dict[str, Any]]


def jobs(families: Sequence[str], seeds: int) -> Iterator[tuple[str, Work]]:
    """Yield every measurement by name, cheap ones first; a network that is not in the cache is trained."""
    yield "solvers/sparsegpt-1024", costs.sparsegpt_seconds
    yield "cost/resnet18", lambda: costs.whole_network("resnet18", 64, 32)
    yield "cost/resnet50", lambda: costs.whole_network("resnet50", 224, 32)
    nets = [f"glyphs/{family}{size}" for family in families for size in SIZES]
    for seed in range(seeds):
        for net in nets:
            for kept in KEPT:
                yield from _cell(net, kept, seed)
        for net in (n for n in LADDER if n in nets):
            for number, rung in enumerate(ours.RUNGS):
                yield (
                    f"ladder/{net}/0.25/{number}-{seed}",
                    lambda n=net, s=seed, r=rung: ours.rung(n, 0.25, s, r),
                )
            for count in SAMPLES:
                yield (
                    f"samples/{net}/0.25/{count}/{seed}",
                    lambda n=net, s=seed, c=count: ours.shot(n, 0.25, s, ours.METHOD, ours.REPAIR, c),
                )


def _cell(net: str, kept: float, seed: int) -> Iterator[tuple[str, Work]]:
    start = f"cells/{net}/{kept:g}/{seed}"
    yield f"{start}/ours", lambda: ours.cell(net, kept, seed)
    for criterion in peer.CRITERIA:
        for scope in peer.SCOPES:
            yield (
                f"{start}/torch-pruning-{criterion}-{scope}",
                lambda c=criterion, s=scope: peer.cell(net, kept, seed, c, s),
            )


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="beginnings of names, such as cells/glyphs/vit; all where none")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "oneshot.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    rows = {r["name"]: r["found"] for r in done}
    for name, work in jobs(given.families, given.seeds):
        wanted = not given.only or any(name.startswith(start) for start in given.only)
        if name not in rows and wanted:
            rows[name] = work()
            with given.log.open("a") as stream:
                stream.write(json.dumps({"name": name, "found": rows[name]}) + "\n")
            print(name, json.dumps(_told(rows[name])), flush=True)
    about = {"torch": torch.__version__, "cpu": _processor()}
    given.docs.mkdir(parents=True, exist_ok=True)
    found = {"about": about, "claims": claims(rows), "rows": {name: _told(row) for name, row in rows.items()}}
    (given.docs / "oneshot.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.docs / "oneshot.md").write_text(page(rows, about), encoding="utf-8")


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row.items() if field not in HELD_BACK}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


if __name__ == "__main__":
    main()
