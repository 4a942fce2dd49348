"""Recovery at equal steps: plain fine-tuning, distillation from the dense network, and the autopilot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from prunus.budget import fit_units, parse_budget
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.measurement.price import cost_model
from prunus.measurement.quality import evaluate
from prunus.planning import make_plan, unit_criterion
from prunus.recovery import Case, RecoveryOptions, recovered_
from prunus.surgery.cut import operate
from prunus.workloads import WORKLOADS, trained

NETS = ("digits", "glyphs/resnet", "glyphs/vgg")
WAYS = ("finetune", "distil", "autopilot")
KEPT = (0.5, 0.25)
STEPS = {"digits": 100}
"""Training steps, where they are not 150."""


def names(seeds: int) -> Iterator[tuple[str, tuple[str, float, str, int]]]:
    """Yield the name and the arguments of every measurement."""
    for net in NETS:
        for kept in KEPT:
            for way in WAYS:
                for seed in range(seeds):
                    yield f"recovery/{net}/{kept:g}/{way}/{seed}", (net, kept, way, seed)


def measure(net: str, kept: float, way: str, seed: int) -> dict[str, Any]:
    """Cut the trained net to a share of its MACs by Taylor scores, uniformly, and recover it.

    The calibration split decides what is kept of the recovery; accuracy is that of the selection split.
    """
    workload = WORKLOADS.get(net)
    data, dense, example = workload.load(), trained(net, seed).eval(), workload.example_inputs()
    coupling = couple(capture(dense, example))
    cost = cost_model(coupling)
    scores = unit_criterion(dense, coupling, "taylor", data.calibration.batches(64), seed)
    keep = fit_units(cost, scores, parse_budget({"macs": kept}, cost.price()), allocator="uniform")
    plan = make_plan(coupling, keep, cost=cost)
    small, _ = operate(dense, coupling, plan, example)
    raw = evaluate(small, data.selection.batches())
    options = RecoveryOptions(replace(workload.recovery, steps=STEPS.get(net, 150)), None, way)
    report = recovered_(Case(small, dense, data.train, data.calibration, options, {}, plan, coupling, example, seed))
    quality = evaluate(small, data.selection.batches())
    return {
        "dense": evaluate(dense, data.selection.batches()).accuracy, "cut": raw.accuracy, "accuracy": quality.accuracy,
        "nll": quality.nll, "steps": report.steps, "seconds": report.seconds, "log": str(report).splitlines(),
    }  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: accuracy in per cent, the mean over the seeds that were measured."""
    lines = [
        "| network | MACs kept | dense | as cut | " + " | ".join(WAYS) + " |",
        "|---|---|---|---|" + "---|" * len(WAYS),
    ]
    for net in NETS:
        for kept in KEPT:
            found = {
                way: [r for n, r in rows.items() if n.startswith(f"recovery/{net}/{kept:g}/{way}/")] for way in WAYS
            }
            if all(found.values()):
                first = found[WAYS[0]]
                cells = [_mean(first, "dense"), _mean(first, "cut"), *(_mean(found[way], "accuracy") for way in WAYS)]
                lines.append(f"| {net} | {kept:.0%} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    return lines


def claims(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Return what the measurements have to show: distillation and the autopilot are no worse than fine-tuning."""
    found: dict[str, bool] = {}
    for net in NETS:
        for kept in KEPT:
            by = {way: [r for n, r in rows.items() if n.startswith(f"recovery/{net}/{kept:g}/{way}/")] for way in WAYS}
            if all(by.values()):
                plain = _mean(by["finetune"], "accuracy")
                for way in WAYS[1:]:
                    found[f"{way} ≥ finetune, {net} at {kept:.0%}"] = _mean(by[way], "accuracy") >= plain
    return found


def _mean(rows: list[Mapping[str, Any]], key: str) -> float:
    return sum(float(row[key]) for row in rows) / len(rows)
