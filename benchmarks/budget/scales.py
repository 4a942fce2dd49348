"""One level, uniform widths and several scales under one budget, on the same trained networks, recovered alike."""

from __future__ import annotations

import time
from typing import Any

Row = dict[str, Any]
SINGLE = ("filter-norm", "sensitivity", "layer-wise", "key-path", "modular", "absolute-threshold", "importance")
SEVERAL = ("multi-scale", "tree-knapsack")


def measure(workload: str, method: str, kept: float, seed: int) -> Row:
    """Plan, cut, verify, recover and score one method; the test answers are kept for paired intervals."""
    from prunus.contest import carry_through, contest_of
    from prunus.errors import BudgetError
    from prunus.measurement.quality import evaluate
    from prunus.methods import METHODS
    from prunus.parent import parent_of
    from prunus.progress import Silent
    from prunus.recipe import Recipe

    data = "digits" if workload == "digits" else "glyphs"
    text = {"version": 1, "model": workload, "data": data, "seed": seed,
            "compare": {"latency": {"rounds": 15, "batch": 64}}}  # fmt: skip
    run = contest_of(parent_of(Recipe.model_validate(text), seed, Silent()), seed)
    started = time.perf_counter()
    try:
        plan = METHODS.get(method).plan(run.subject, kept)
    except BudgetError as error:
        return {"ok": False, "reason": str(error)}
    entry = carry_through(run, plan, METHODS.get(method), kept, started)
    answers = evaluate(entry.model, run.data.test.batches(256), run.data.classes).correct
    row = entry.row
    return {"ok": True, "accuracy": row.accuracy, "before": row.accuracy_before_recovery, "bytes": row.size_bytes,
            "params": row.params, "macs": row.macs_forward, "time": row.latency_forward_ratio, "seconds": row.seconds,
            "dense": run.quality.accuracy, "correct": "".join("1" if c else "0" for c in answers.tolist())}  # fmt: skip
