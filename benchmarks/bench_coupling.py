"""Capture + couple + plan + cut of every torchvision classifier, side by side with Torch-Pruning in one run.

Writes docs/bench/coupling.md and .json. Usage: make bench-coupling
Each model runs in a process of its own with a time limit; the two tools take turns within it. Cut: half of the units of
every axis (ours: the 50 % uniform budget on removable units; theirs: pruning_ratio=0.5, magnitude, example settings).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 150
ROOT = Path(__file__).resolve().parent.parent


def build(name: str) -> tuple[Any, Any]:
    import torch

    from zoo.vision_ops import define_vision_ops

    define_vision_ops()
    import torchvision

    extra: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if extra:
        extra["init_weights"] = False
    torch.manual_seed(0)
    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, weights=None, **extra).eval(), torch.randn(1, 3, size, size)


def ours(name: str) -> dict[str, Any]:
    import numpy as np
    import torch

    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.measurement.price import cost_model
    from prunus.planning import make_plan, unit_criterion
    from prunus.surgery.cut import operate

    model, x = build(name)
    begun = time.perf_counter()
    graph = capture(model, x)
    captured = time.perf_counter()
    coupling = couple(graph)
    coupled = time.perf_counter()
    scores = unit_criterion(model, coupling, "magnitude", None, 0)
    keep = {}
    for axis, score in scores.items():
        keep[axis] = np.zeros(len(score), bool)
        keep[axis][np.argsort(-score)[: max(1, len(score) // 2)]] = True
    plan = make_plan(coupling, keep, cost=cost_model(coupling))
    planned = time.perf_counter()
    small, surgery = operate(model, coupling, plan, x)
    ended = time.perf_counter()
    with torch.no_grad():
        small(x)
    assert plan.before is not None
    assert plan.after is not None
    return {"ok": True, "seconds": ended - begun, "capture": captured - begun, "couple": coupled - captured,
            "plan": planned - coupled, "cut": ended - planned, "mode": surgery.mode,
            "kept_params": plan.after.params / plan.before.params, "coverage": coupling.coverage()}  # fmt: skip


def theirs(name: str) -> dict[str, Any]:
    import torch
    import torch_pruning as tp

    model, x = build(name)
    before = sum(p.numel() for p in model.parameters())
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
    begun = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    seconds = time.perf_counter() - begun
    with torch.no_grad():
        model(x)
    return {"ok": True, "seconds": seconds, "kept_params": sum(p.numel() for p in model.parameters()) / before}


def warm_up(tool: str) -> None:
    """Cut a tiny net first: imports and first-call set-up of either tool are not what is compared."""
    import torch
    from torch import nn

    net, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        torch.randn(1, 3, 8, 8),
    )
    if tool == "prunus":
        import prunus

        prunus.prune(net, x, budget={"params": 0.7})
    else:
        import torch_pruning as tp

        tp.pruner.MagnitudePruner(net, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5).step()


def _child(tool: str, name: str, pipe: Any) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
    try:
        warm_up(tool)
        result = {"prunus": ours, "torch-pruning": theirs}[tool](name)
    except BaseException as error:
        result = {
            "ok": False,
            "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
        }
    pipe.send(result)


def trial(tool: str, name: str) -> dict[str, Any]:
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


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    both = [r for r in rows if r["prunus"]["ok"] and r["torch-pruning"]["ok"]]
    ratios = [r["prunus"]["seconds"] / r["torch-pruning"]["seconds"] for r in both]
    mine = [r["prunus"]["seconds"] for r in rows if r["prunus"]["ok"]]
    return {
        "models": len(rows),
        "prunus_ok": sum(r["prunus"]["ok"] for r in rows),
        "torch_pruning_ok": sum(r["torch-pruning"]["ok"] for r in rows),
        "both": len(both),
        "total_seconds_on_both": [sum(r[t]["seconds"] for r in both) for t in ("prunus", "torch-pruning")],
        "total_ratio": sum(r["prunus"]["seconds"] for r in both) / sum(r["torch-pruning"]["seconds"] for r in both),
        "geometric_mean_ratio": math.exp(statistics.fmean(map(math.log, ratios))),
        "ratio_quartiles": statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3,
        "prunus_slowest": max(mine),
        "prunus_median_coverage": statistics.median(r["prunus"]["coverage"] for r in rows if r["prunus"]["ok"]),
    }


def page(found: dict[str, Any], rows: list[dict[str, Any]], about: dict[str, str]) -> str:
    mine, other = found["total_seconds_on_both"]
    lines = [
        "# Coupling and cutting, side by side with Torch-Pruning 1.6.1",
        "",
        f"Command: `make bench-coupling` · torch {about['torch']} · {about['cpu']} · 1 thread, one model at a time.",
        "",
        f"- networks cut, of {found['models']}: prunus {found['prunus_ok']}, Torch-Pruning {found['torch_pruning_ok']}",
        f"- seconds over the {found['both']} models that both do: prunus {mine:.1f}, Torch-Pruning {other:.1f}: "
        f"ratio {found['total_ratio']:.2f}",
        f"- per model: geometric mean of the ratio {found['geometric_mean_ratio']:.2f}, quartiles "
        + ", ".join(f"{q:.2f}" for q in found["ratio_quartiles"]),
        f"- slowest with prunus {found['prunus_slowest']:.1f} s; median coverage {found['prunus_median_coverage']:.4f}",
        "",
        "Timed: capture + couple + plan + cut (prunus, its second capture included; verify apart) against building the "
        "dependency graph + pruning. Torch-Pruning's “ok” means that its network runs; attention stays whole there.",
        "",
        "| model | prunus s | kept | mode | Torch-Pruning s | kept | ratio |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for r in rows:
        a, b = r["prunus"], r["torch-pruning"]
        left = f"{a['seconds']:.2f} | {a['kept_params']:.0%} | {a['mode']}" if a["ok"] else f"– | – | {a['reason']}"
        right = f"{b['seconds']:.2f} | {b['kept_params']:.0%}" if b["ok"] else f"{b['reason']} | –"
        ratio = f"{a['seconds'] / b['seconds']:.2f}" if a["ok"] and b["ok"] else "–"
        lines.append(f"| {r['model']} | {left} | {right} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; all 80 classifiers where none is given")
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "coupling.jsonl")
    given = parser.parse_args()
    import torch

    from zoo.vision_ops import define_vision_ops

    define_vision_ops()
    import torchvision

    names = given.models or torchvision.models.list_models(module=torchvision.models)
    given.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    rows = {r["model"]: r for r in done}
    for number, name in enumerate(names):
        if name not in rows:
            rows[name] = {"model": name, **{tool: trial(tool, name) for tool in ("prunus", "torch-pruning")}}
            with given.log.open("a") as stream:
                stream.write(json.dumps(rows[name]) + "\n")
        told = {k: v.get("seconds", v.get("reason")) for k, v in rows[name].items() if k != "model"}
        print(f"{number + 1}/{len(names)} {name}", told, flush=True)
    chosen = [rows[n] for n in names]
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    found, about = summary(chosen), {"torch": torch.__version__, "cpu": cpu or platform.machine()}
    out = ROOT / "docs" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "coupling.json").write_text(json.dumps({"summary": found, "about": about, "rows": chosen}, indent=1) + "\n")
    (out / "coupling.md").write_text(page(found, chosen, about), encoding="utf-8")


if __name__ == "__main__":
    main()
