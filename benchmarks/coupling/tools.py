"""One classifier cut by prunus and by Torch-Pruning: seconds, processor time, peak memory."""

from __future__ import annotations

import time
from typing import Any

from zoo.memory import Baseline

Result = dict[str, Any]
KEPT = 0.27
"""The share of the parameters that half of the units of every axis leave, at the median."""


def build(name: str) -> tuple[Any, Any]:
    """Return a torchvision classifier with random weights, and one image."""
    import torch

    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import torchvision

    extra: dict[str, Any] = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if extra:
        extra["init_weights"] = False
    torch.manual_seed(0)
    size = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, weights=None, **extra).eval(), torch.randn(1, 3, size, size)


def ours(name: str) -> Result:
    """Capture, couple, plan and cut: half of the units of every axis."""
    import numpy as np
    import torch

    from prunus.analysis.score import make_plan
    from prunus.cost.price import cost_model
    from prunus.criteria import UnitEvidence
    from prunus.criteria.units import unit_magnitude
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.graph.recorder import named_tensors
    from prunus.surgery.cut import cut_with_record

    baseline = Baseline.now()
    model, x = build(name)
    cpu, begun = time.process_time(), time.perf_counter()
    graph = capture(model, x)
    captured = time.perf_counter()
    coupling = couple(graph)
    coupled = time.perf_counter()
    found = unit_magnitude(UnitEvidence(coupling, named_tensors(model)))
    scores = {axis: score.numpy() for axis, score in found.items()}
    keep = {}
    for axis, score in scores.items():
        keep[axis] = np.zeros(len(score), bool)
        keep[axis][np.argsort(-score)[: max(1, len(score) // 2)]] = True
    plan = make_plan(coupling, keep, cost=cost_model(coupling))
    planned = time.perf_counter()
    small, surgery = cut_with_record(model, coupling, plan, x)
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    memory = baseline.describe(model)
    with torch.no_grad():
        small(x)
    assert plan.before is not None
    assert plan.after is not None
    stages = {"capture": captured - begun, "couple": coupled - captured, "plan": planned - coupled}
    found = {"kept_params": plan.after.params / plan.before.params, "coverage": coupling.coverage()}
    times = {"seconds": ended - begun, "cpu_seconds": cpu, **stages, "cut": ended - planned}
    return {"ok": True, "mode": surgery.mode} | times | found | memory


def whole(name: str) -> Result:
    """One call of `prunus.prune`: as much as `theirs` leaves, forwards kept, proved at three batch sizes."""
    import prunus

    baseline = Baseline.now()
    model, x = build(name)
    cpu, begun = time.process_time(), time.perf_counter()
    found = prunus.prune(model, x, budget={"params": KEPT})
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    check = found.check
    assert check is not None
    told = {"kept_params": found.plan.after.params / found.plan.before.params, "sizes": list(check.sizes)}
    any_size = any(" of " in size for size in check.sizes)
    result = {"ok": check.ok, "seconds": seconds, "cpu_seconds": cpu, "any_size": any_size}
    return result | told | baseline.describe(model)


def theirs(name: str) -> Result:
    """Build the dependency graph and prune: magnitude, ratio 0.5, the settings of its examples."""
    import torch
    import torch_pruning as tp

    baseline = Baseline.now()
    model, x = build(name)
    before = sum(p.numel() for p in model.parameters())
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
    cpu, begun = time.process_time(), time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        model, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    memory = baseline.describe(model)
    with torch.no_grad():
        model(x)
    after = sum(p.numel() for p in model.parameters())
    return {"ok": True, "seconds": seconds, "cpu_seconds": cpu, "kept_params": after / before} | memory


def warm_up(tool: str) -> None:
    """Cut a tiny net first: imports and first-call set-up of either tool are not what is compared."""
    import torch
    from torch import nn

    net, x = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
        torch.randn(1, 3, 8, 8),
    )
    if tool.startswith("prunus"):
        import prunus

        prunus.prune(net, x, budget={"params": 0.7})
    elif tool == "torch-pruning":
        import torch_pruning as tp

        tp.pruner.MagnitudePruner(net, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5).step()
