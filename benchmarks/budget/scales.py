"""One level, uniform widths and several scales under one budget, on the same trained networks, recovered alike."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
UNIFORM = "magnitude"
SEVERAL = ("multi-scale", "tree-knapsack")
UNITS = (UNIFORM, "sensitivity", "layer-wise", "key-path", "modular", "depth")
"""Single levels that make a network faster."""
WEIGHTS = ("absolute-threshold", "importance")
"""Single levels that only save bytes."""
_TRIES, _NEAR, _ROUNDS = 4, 0.03, 21


def methods_for(metric: str) -> tuple[str, ...]:
    """Return the methods that can meet a budget of a metric, ours first."""
    return (*SEVERAL, *UNITS, *(WEIGHTS if metric == "bytes" else ()))


def recipe_for(workload: str, more: Mapping[str, Any]) -> Any:
    """Return the recipe of a built-in model, with its own training and recovery."""
    import yaml

    from prunus.experiments.recipe import load_recipe

    data = "digits" if workload == "digits" else "glyphs"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "model": workload, "data": data, **more}))
        return load_recipe(path)


@functools.lru_cache(maxsize=2)
def contest(workload: str, metric: str, seed: int) -> Any:
    """Train, or take from the cache, one seed's network once for all methods."""
    from prunus.experiments.trained_model import trained_model
    from prunus.experiments.trial import trial_of
    from prunus.foundation.progress import Silent

    recipe = recipe_for(
        workload,
        {"seed": seed, "prune": {"budget": {metric: 0.5}}, "compare": {"latency": {"rounds": _ROUNDS, "batch": 64}}},
    )
    return trial_of(trained_model(recipe, seed, Silent()), seed)


def measure(workload: str, metric: str, method: str, kept: float, seed: int) -> Row:
    """Plan, cut, verify, recover and score one method; the test answers are kept for paired intervals."""

    from prunus.errors import BudgetError
    from prunus.experiments.trial import entered_row
    from prunus.measurement.quality import evaluate
    from prunus.methods import METHODS

    run = contest(workload, metric, seed)
    subject, way = run.analysis.in_metric(metric), METHODS.get(method)
    started = time.perf_counter()
    try:
        plan = way.plan(subject, subject.limits(kept)) if metric != "latency_ms" else as_fast(subject, way, kept)
    except BudgetError as error:
        return {"ok": False, "reason": str(error)}
    entry = entered_row(run, plan, way, kept, started)
    answers = evaluate(entry.outcome.model, run.data.test.batches(256), run.data.classes).correct
    row = entry.row
    return {
        "ok": True,
        "accuracy": row.accuracy,
        "before": row.accuracy_before_recovery,
        "bytes": row.size_bytes,
        "params": row.params,
        "macs": row.macs_forward,
        "time": row.latency_forward_ratio,
        "seconds": row.seconds,
        "dense": run.quality.accuracy,
        "notes": list(row.notes),
        "correct": "".join("1" if c else "0" for c in answers.tolist()),
    }


def as_fast(subject: Any, way: Any, share: float) -> Any:
    """Plan for a predicted time, measure, and plan again until the measured ratio is the wanted one."""
    from prunus.errors import BudgetError
    from prunus.measurement.latency import latency_ratio
    from prunus.surgery.cut import cut_with_record

    best, nearest, asked = None, float("inf"), share
    for _ in range(_TRIES):
        try:
            plan = way.plan(subject, subject.limits(min(asked, 0.98)))
        except BudgetError:
            if best is None:
                raise
            break
        small, _ = cut_with_record(subject.model, subject.coupling, plan, subject.example_inputs)
        found = latency_ratio(small, subject.model, subject.example_inputs, rounds=_ROUNDS, threads=1).median
        off = abs(found / share - 1)
        if off < nearest:
            best, nearest = plan, off
        if off <= _NEAR:
            break
        asked *= share / found
    return best
