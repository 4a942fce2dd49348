"""Budgets in milliseconds: asked, predicted and measured; how far predictions are off; what accuracy they buy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from .scales import recipe_for

Row = dict[str, Any]


def _net(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name.startswith("glyphs/"):
        from prunus.experiments.workloads import WORKLOADS, load_glyphs, trained

        assert name in WORKLOADS
        return trained(name), next(iter(load_glyphs().calibration.batches(64)))[0]
    from prunus.experiments.sources.vision_ops import import_torchvision

    import_torchvision()
    import torchvision

    return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)


def meet(name: str, share: float) -> Row:
    """Prune one network to a share of its time."""
    import prunus

    model, x = _net(name)
    result = prunus.prune(model, x, budget={"latency_ms": share})
    return {
        **result.plan.settings["latency"],
        "params_kept": result.after.params / result.before.params,
        "macs_kept": result.after.macs_forward / result.before.macs_forward,
    }


def predict(name: str, plans: int) -> Row:
    """Compare predicted and measured time ratios of networks at widths drawn anew."""
    from prunus.analysis.score import make_plan
    from prunus.graph.capture import capture
    from prunus.graph.coupling import couple
    from prunus.measurement.latency import latency_ratio
    from prunus.measurement.timing import latency_model
    from prunus.surgery.cut import cut_with_record

    model, x = _net(name)
    coupling = couple(capture(model, x))
    times = latency_model(model, coupling, x)
    generator = np.random.default_rng(1234)
    points = []
    for _ in range(plans):
        keep = {a.id: np.arange(a.size) < _width(a.size, generator) for a in coupling.axes.values()}
        small, _ = cut_with_record(model, coupling, make_plan(coupling, keep), x)
        measured = latency_ratio(small, model, x, rounds=21, threads=1)
        points.append([times.ms(keep) / times.ms(), measured.median, measured.low, measured.high])
    errors = [abs(p / m - 1) for p, m, _, _ in points]
    return {"points": points, "median_error": float(np.median(errors)), "worst_error": max(errors)}


def _width(size: int, generator: np.random.Generator) -> int:
    wanted = generator.uniform(0.1, 1) * size
    return min(size, max(8, round(wanted / 8) * 8)) if size >= 16 else max(1, round(wanted))


def against_macs(name: str, share: float, seed: int) -> Row:
    """Recover a network pruned for milliseconds, and one pruned for MACs that takes as long; compare their accuracy.

    The MACs budget is bisected to the same predicted time; both plans come from equal scores and one allocator.
    """
    from prunus.budget import parse_budget
    from prunus.experiments.trained_model import trained_model
    from prunus.foundation.progress import Silent
    from prunus.measurement.latency import latency_ratio
    from prunus.measurement.quality import evaluate, paired_interval
    from prunus.methods import METHODS
    from prunus.outcome import train_
    from prunus.surgery.cut import cut_with_record

    recipe = recipe_for(name, {"seed": seed, "prune": {"budget": {"latency_ms": share}}})
    parent = trained_model(recipe, seed, Silent())
    subject = scored = parent.analysis.timed()
    (timed,) = parse_budget({"latency_ms": share}, subject.cost.price())
    by_time = METHODS.get("units").plan(
        subject.in_metric("latency_ms"), (timed,), criterion="magnitude", allocator="lagrangian"
    )
    low, high = 0.02, 0.99
    for _ in range(12):
        middle = (low + high) / 2
        plan = scored.plan({"macs": middle}, criterion="magnitude", allocator="lagrangian")
        low, high = (middle, high) if plan.after.latency_fs <= by_time.after.latency_fs else (low, middle)
    by_macs = scored.plan({"macs": low}, criterion="magnitude", allocator="lagrangian")
    found: Row = {}
    correct = []
    for label, plan in (("latency", by_time), ("macs", by_macs)):
        small, _ = cut_with_record(subject.model, subject.coupling, plan, subject.example_inputs)
        time = latency_ratio(small, subject.model, subject.example_inputs, rounds=21, threads=1)
        train_(small, parent.data.train, parent.recipe.recover.options(), seed, Silent(), "recover")
        quality = evaluate(small, parent.data.test.batches(256), parent.data.classes)
        correct.append(quality.correct)
        found[label] = {"accuracy": quality.accuracy, "measured": [time.median, time.low, time.high]}
    gain = paired_interval(correct[0], correct[1], seed=seed)
    return {**found, "gain": [gain.estimate, gain.low, gain.high]}
