"""One model: half of its removable parameters cut with every forward kept, then every call of the table."""

from __future__ import annotations

import math
import time
import traceback
from typing import Any

import torch

import prunus
from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.errors import BudgetError
from prunus.outcome import Outcome
from zoo.catalog import Entry
from zoo.choices import kept_sets

MODE = "calls"
Record = dict[str, Any]


def run_trial(entry: Entry, modes: tuple[str, ...]) -> list[Record]:
    """Return one record; a model that cannot be cut, or whose calls cannot be compared, says so in it."""
    torch.manual_seed(0)
    began, cpu = time.perf_counter(), time.process_time()
    record: Record = {"zoo": entry.zoo, "model": entry.name, "mode": MODE, "ok": False, "stage": "build"}
    try:
        model, inputs = entry.build()
        record["stage"] = "analyse"
        analysis = prunus.analyse(model, inputs, forward="keep")
        record["stage"] = "cut"
        found = _cut(analysis)
        record |= {"rewritten": len(found.surgery.spliced), "kept": round(found.after.params / found.before.params, 4)}
        record["cut_s"] = round(time.perf_counter() - began, 1)
        record["stage"] = "calls"
        table = prunus.check_calls(found)
        rows = [[r.name, r.verdict, _number(r.error), r.reason] for r in table.rows]
        record |= {"ok": table.ok, "rows": rows, "stage": "done"}
    except Exception as error:
        text = str(error).strip() or "no message"
        record["error"] = f"{type(error).__name__}: {text.splitlines()[0][:300]}"
        record["trace"] = traceback.format_exc(limit=-6)
    record["seconds"] = round(time.perf_counter() - began, 1)
    record["cpu_seconds"] = round(time.process_time() - cpu, 1)
    return [record]


def _cut(analysis: Analysis) -> Outcome:
    """Cut random units; where the budget is out of reach with whole heads, their widths go too."""
    try:
        plan = make_plan(analysis.coupling, kept_sets(analysis.coupling, "budget", 0))
    except BudgetError:
        analysis = analysis.with_free_head_dims()
        plan = make_plan(analysis.coupling, kept_sets(analysis.coupling, "budget", 0))
    return prunus.realise(analysis, plan)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.2e}")
