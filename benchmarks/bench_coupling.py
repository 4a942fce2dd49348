"""Capture + couple + plan + cut of every torchvision classifier, side by side with Torch-Pruning in one run.

Writes docs/bench/coupling.md and .json. Usage: make bench-coupling; one that was stopped goes on where it was.
Each model runs in a process of its own with a time limit; the tools take turns within it. Cut: half of the units of
every axis (ours: the 50 % uniform budget on removable units; theirs: pruning_ratio=0.5, magnitude, example settings).
Beside them, one call of prunus.prune with its proof. All takes half an hour on a quiet machine; --part, the 20 smallest
models, takes five minutes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from pathlib import Path
from typing import Any

from coupling.language import NAME, plan_language_model
from coupling.page import PRUNE, page, summary
from coupling.tools import ours, theirs, warm_up, whole
from zoo.catalog import entries

LIMIT_S = 150
ROOT = Path(__file__).resolve().parent.parent
TOOLS = {"prunus": ours, "torch-pruning": theirs, PRUNE: whole}
WORK = {**TOOLS, NAME: plan_language_model}


def _child(tool: str, name: str, pipe: Any) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
    try:
        warm_up(tool)
        result = WORK[tool](name)
    except BaseException as error:
        text = str(error).splitlines()[0][:160] if str(error) else ""
        result = {"ok": False, "reason": f"{type(error).__name__}: {text}"}
    pipe.send(result)


def trial(tool: str, name: str) -> dict[str, Any]:
    """Run one tool on one model in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(tool, name, there))
    process.start()
    there.close()
    try:
        result = here.recv() if here.poll(LIMIT_S) else {"ok": False, "reason": f"over {LIMIT_S} s"}
    except EOFError:
        result = {"ok": False, "reason": "the process died"}
    process.kill()
    process.join()
    return dict(result)


def main() -> None:
    """Run what is not in the log yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; all 80 classifiers where none is given")
    parser.add_argument("--part", action="store_true", help="the 20 smallest models, on a page in runs/")
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "coupling.jsonl")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "bench")
    given = parser.parse_args()
    import torch

    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import torchvision

    every = torchvision.models.list_models(module=torchvision.models)
    names = given.models or ([e.name for e in entries("torchvision")[:20]] if given.part else every)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    rows = {r["model"]: r for r in done}
    for number, name in enumerate([NAME, *names]):
        if name not in rows:
            tools = [NAME] if name == NAME else list(TOOLS)
            rows[name] = {"model": name, **{tool: trial(tool, name) for tool in tools}}
            with given.log.open("a") as stream:
                stream.write(json.dumps(rows[name]) + "\n")
        told = {k: v.get("seconds", v.get("reason")) for k, v in rows[name].items() if k != "model"}
        print(f"{number}/{len(names)} {name}", told, flush=True)
    chosen = [rows[n] for n in names]
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.split(":")[1].strip() for x in lines if "model name" in x), "")
    about = {"torch": torch.__version__, "cpu": cpu or platform.machine()}
    found = summary(chosen, rows[NAME][NAME])
    if len(names) < len(every):
        given.docs = given.log.parent
    given.docs.mkdir(parents=True, exist_ok=True)
    document = {"summary": found, "about": about, "rows": chosen}
    (given.docs / "coupling.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (given.docs / "coupling.md").write_text(page(found, chosen, about), encoding="utf-8")


if __name__ == "__main__":
    main()
