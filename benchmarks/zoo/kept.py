"""One model as users cut it: forwards kept, half of the MACs that could go gone, proved, stored, loaded."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

import prunus
from prunus.analysis import Analysis
from prunus.cost.price import cost_model
from prunus.errors import BudgetError
from prunus.graph.coupling import Coupling, couple
from prunus.nn import Bypass, MultiheadAttention, Zero
from prunus.outcome import Outcome
from prunus.surgery.rewriting.recapture import batch_size

from .catalog import Entry
from .choices import coverage_macs
from .memory import Baseline
from .storing import stored_and_loaded

KEEP = "keep"
SHIPPED = (Bypass, MultiheadAttention, Zero, nn.Identity)
Record = dict[str, Any]


def run_kept(entry: Entry, seed: int = 0) -> Record:
    """Try one model and return its record; an error is part of it, never raised."""
    torch.manual_seed(seed)
    record: Record = {"zoo": entry.zoo, "model": entry.name, "mode": KEEP, "ok": False, "stage": "build"}
    started, cpu = time.perf_counter(), time.process_time()
    try:
        _try(entry, record, seed)
        record["stage"] = "done"
    except Exception as error:
        text = (str(error).strip() or "no message").splitlines()[0][:300]
        record |= {"error": f"{type(error).__name__}: {text}", "trace": traceback.format_exc(limit=-8)}
    record["seconds"] = round(time.perf_counter() - started, 2)
    record["cpu_seconds"] = round(time.process_time() - cpu, 2)
    record["ok"] = record["stage"] == "done" and bool(record["budget"]["ok"])
    return record


def _try(entry: Entry, record: Record, seed: int) -> None:
    baseline = Baseline.now()
    model, inputs = entry.build()
    record["stage"], start = "analyse", time.process_time()
    analysis = prunus.analyse(model, inputs, seed=seed)
    bare = couple(analysis.coupling.graph, **analysis.coupling.options)
    record |= _described(analysis, bare)
    record["stage"] = "budget"
    plan, found = _half_of_the_macs(analysis, bare)
    outcome = prunus.realise(analysis, plan, repair=None)
    record["budget"] = found | {"work_cpu_s": round(time.process_time() - start, 2)} | _judged(model, outcome)
    record |= baseline.describe(model)
    stored = stored_and_loaded(entry, outcome.model, plan, outcome.surgery, inputs)
    record["budget"] |= stored
    record["budget"]["ok"] &= stored["reload"] == "equal"


def _described(analysis: Analysis, bare: Coupling) -> Record:
    kept, price = analysis.with_free_head_dims().coupling, cost_model(bare).price()
    reasons = Counter(f.reason for f in kept.frozen) - Counter(f.reason for f in bare.frozen)
    return {
        "how": bare.graph.how,
        "axes": len(kept.axes),
        "axes_rewritten": len(bare.axes),
        "params": price.params,
        "macs": price.macs_forward,
        "coverage_params": round(kept.coverage(), 4),
        "coverage_macs": round(coverage_macs(kept), 4),
        "coverage_params_rewritten": round(bare.coverage(), 4),
        "coverage_macs_rewritten": round(coverage_macs(bare), 4),
        "unknown": sorted(bare.unknown),
        "frozen": dict(reasons.most_common(8)),
    } | ({"parts": list(analysis.parts)} if analysis.parts else {})


def _half_of_the_macs(analysis: Analysis, bare: Coupling) -> tuple[prunus.Plan, Record]:
    """Return a plan without half of the MACs that rewriting could remove; else of those that are in reach."""
    wanted = 1 - 0.5 * coverage_macs(bare)
    try:
        return analysis.plan({"macs": wanted}, criterion="random"), {"reached": True, "wanted_macs": round(wanted, 4)}
    except BudgetError as error:
        share = 1 - 0.5 * coverage_macs(analysis.with_free_head_dims().coupling)
        found = {"reached": False, "wanted_macs": round(wanted, 4), "because": str(error).splitlines()[0][:300]}
    for less in (share, (1 + share) / 2, (3 + share) / 4):
        try:
            return analysis.plan({"macs": less}, criterion="random"), found
        except BudgetError as error:
            found["because"] = str(error).splitlines()[0][:300]
    raise BudgetError(found["because"])


def _judged(model: nn.Module, outcome: Outcome) -> Record:
    kinds = {path: type(m).forward for path, m in model.named_modules()}
    rewritten = [
        path
        for path, module in outcome.model.named_modules()
        if not isinstance(module, SHIPPED) and type(module).forward is not kinds.get(path)
    ]
    check, counted = outcome.check, cost_model(couple(prunus.capture(outcome.model, outcome.example_inputs))).price()
    assert check is not None
    exact = counted.params == outcome.plan.after.params and counted.macs_forward == outcome.plan.after.macs_forward
    batches = {int(size.split()[1]) for size in check.sizes if size.startswith("batch")}
    proved = len(batches | ({batch_size(pytree.tree_leaves(outcome.example_inputs))} if check.on_example else set()))
    return {
        "ok": check.ok and not rewritten and exact and check.change > 1e-6,
        "params": counted.params,
        "macs": counted.macs_forward,
        "rewritten": len(rewritten),
        "rewritten_paths": rewritten[:3],
        "mended": len(outcome.surgery.mended),
        "shipped": len(outcome.surgery.shipped),
        "same_program": outcome.surgery.same_program,
        "verified": check.ok,
        "error": float(f"{check.error:.2e}"),
        "change": float(f"{check.change:.2e}"),
        "price_exact": exact,
        "proved_batches": proved,
        "sizes": list(check.sizes),
    }
