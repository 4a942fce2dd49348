"""One model: capture, couple, cut by half and at random, verify, price; the outcome as a plain record."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.budget.fit import fit_units
from prunus.budget.limits import Limit
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.layout import atoms_of
from prunus.measurement.price import cost_model
from prunus.planning import make_plan
from prunus.plans import Plan
from prunus.surgery.cut import operate
from prunus.surgery.record import Surgery
from prunus.surgery.verify import compare_models

from .catalog import Entry
from .storing import stored_and_loaded

KINDS = {"graph": ("half", "random")}
KEPT_MODES = ("budget", "random")


def run_trial(
    entry: Entry, *, mode: str = "graph", kinds: tuple[str, ...] = (), seed: int = 0, prove: bool = True
) -> dict[str, Any]:
    """Try one model and return its record; an error is part of the record, never raised.

    Args:
        entry: the model.
        mode: how it is cut.
        kinds: which cuts: ``half`` of every axis, ``random`` shares, ``budget`` (half of the removable parameters).
            By default half and random in graph mode, else budget and random.
        seed: for weights and kept units.
        prove: run both networks and compare; without, only the programs are compared.
    """
    kinds = kinds or KINDS.get(mode, KEPT_MODES)
    torch.manual_seed(seed)
    started = time.perf_counter()
    record: dict[str, Any] = {"zoo": entry.zoo, "model": entry.name, "mode": mode, "ok": False, "stage": "build"}
    try:
        _try(entry, record, mode, kinds, seed, prove)
    except Exception as error:
        text = str(error).strip() or "no message"
        record["error"] = f"{type(error).__name__}: {text.splitlines()[0][:300]}"
        record["trace"] = traceback.format_exc(limit=-8)
    record["seconds"] = round(time.perf_counter() - started, 2)
    return record


def _try(entry: Entry, record: dict[str, Any], mode: str, kinds: tuple[str, ...], seed: int, prove: bool) -> None:
    model, inputs = entry.build()
    record["stage"] = "capture"
    work = time.process_time()
    start = time.perf_counter()
    graph = capture(model, inputs)
    record |= {"how": graph.how, "capture_s": _since(start), "nodes": len(graph.nodes), "stage": "couple"}
    start = time.perf_counter()
    coupling = couple(graph)
    record["couple_s"] = _since(start)
    work = time.process_time() - work
    record |= _describe(coupling)
    if not coupling.axes:
        raise ValueError("no removable axis")
    for kind in kinds:
        record["stage"] = kind
        planning = time.process_time()
        plan = make_plan(coupling, kept_sets(coupling, kind, seed))
        planning = time.process_time() - planning
        found = _cut_and_verify(entry, model, inputs, coupling, plan, mode, prove)
        record[kind] = found | {"work_cpu_s": round(work + planning + found.pop("cut_cpu_s"), 2)}
    record["ok"] = all(record[kind]["ok"] for kind in kinds)
    record["stage"] = "done"


def _describe(coupling: Coupling) -> dict[str, Any]:
    price = cost_model(coupling).price()
    reasons = Counter(f.reason for f in coupling.frozen)
    return {
        "axes": len(coupling.axes),
        "params": price.params,
        "macs": price.macs_forward,
        "coverage_params": round(coupling.coverage(), 4),
        "coverage_macs": round(coverage_macs(coupling), 4),
        "unknown": sorted(coupling.unknown),
        "frozen": dict(reasons.most_common()),
    }


def coverage_macs(coupling: Coupling) -> float:
    """Return the share of forward MACs in products that at least one removable axis shrinks."""
    total = covered = 0.0
    for term in cost_model(coupling).macs:
        macs = float(term.factor * np.prod([float(coupling.size(e)) for e in term.dims]))
        total += macs
        covered += macs if any(a in coupling.axis_of for e in term.dims for a in atoms_of(e)) else 0.0
    return covered / total if total else 0.0


def kept_sets(coupling: Coupling, kind: str, seed: int) -> dict[str, np.ndarray]:
    """Choose which units stay: half of every axis, a share between 5 and 90 % of each, or what a budget leaves."""
    generator = np.random.default_rng(seed)
    if kind == "budget":
        scores = {axis.id: generator.random(axis.size) for axis in coupling.axes.values()}
        cost = cost_model(coupling)
        total = cost.price().params
        limit = Limit("params", int(total - round(0.5 * removable_params(coupling))))
        return fit_units(cost, scores, limit)
    keep = {}
    for axis in coupling.axes.values():
        share = 0.5 if kind == "half" else generator.uniform(0.05, 0.9)
        mask = np.zeros(axis.size, bool)
        mask[generator.permutation(axis.size)[: max(1, int(axis.size * share))]] = True
        keep[axis.id] = mask
    return keep


def removable_params(coupling: Coupling) -> int:
    """Return how many parameters lie on a removable axis."""
    return round(coupling.coverage() * cost_model(coupling).price().params)


def _cut_and_verify(
    entry: Entry, model: nn.Module, inputs: Any, coupling: Coupling, plan: Plan, mode: str, prove: bool
) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    small, surgery = operate(model, coupling, plan, inputs, mode=mode)
    cut_seconds, cut_cpu = _since(start), time.process_time() - cpu
    predicted = cost_model(coupling).price(plan.axes)
    params = sum(p.numel() for p in small.parameters())
    found: dict[str, Any] = {
        "ok": predicted.params == params,
        "params": predicted.params,
        "macs": predicted.macs_forward,
        "kept_of_removable": _kept_of_removable(coupling, predicted.params),
        "kind": type(small).__name__,
        "cut_s": cut_seconds,
        "cut_cpu_s": cut_cpu,
    }
    if mode != "graph":
        found |= _survival(model, small, surgery) | stored_and_loaded(entry, small, plan, surgery, inputs)
        found["ok"] &= found["survives"] and found["surgery"] != "graph" and found["reload"] == "equal"
    if prove:
        found |= _proof(entry, model, small, inputs, coupling, plan)
        found["ok"] &= found["verified"] and found["price_exact"]
    return found


def _kept_of_removable(coupling: Coupling, params: int) -> float:
    total, removable = cost_model(coupling).price().params, removable_params(coupling)
    return round(1 - (total - params) / max(removable, 1), 4)


def _survival(model: nn.Module, small: nn.Module, surgery: Surgery) -> dict[str, Any]:
    """Say what of the user's own classes is left, and how much of it runs a forward of its own."""
    own = {path: type(m) for path, m in model.named_modules()}
    total = kept = rewritten = 0
    for path, module in small.named_modules():
        count = sum(p.numel() for p in module._parameters.values() if p is not None)
        total += count
        kept += count if path in own and isinstance(module, own[path]) else 0
        rewritten += count if path in surgery.spliced else 0
    return {
        "survives": isinstance(small, type(model)),
        "surgery": surgery.mode,
        "spliced": len(surgery.spliced),
        "spliced_paths": list(surgery.spliced[:3]),
        "removed": len(surgery.removed),
        "own_share": round(kept / max(total, 1), 4),
        "rewritten_share": round(rewritten / max(total, 1), 4),
    }


def _proof(
    entry: Entry, model: nn.Module, small: nn.Module, inputs: Any, coupling: Coupling, plan: Plan
) -> dict[str, Any]:
    start = time.perf_counter()
    predicted = cost_model(coupling).price(plan.axes)
    counted = cost_model(couple(capture(small, inputs))).price()
    count_seconds = _since(start)
    start = time.perf_counter()
    dtype = torch.float32 if entry.giant else torch.float64
    check = compare_models(model, small, coupling, plan, inputs, dtype=dtype)
    return {
        "verified": bool(check.ok and check.change > 1e-6),
        "error": float(f"{check.error:.2e}"),
        "change": float(f"{check.change:.2e}"),
        "values_equal": check.values_equal,
        "price_exact": predicted == counted,
        "counted": None if predicted == counted else [str(predicted), str(counted)],
        "count_s": count_seconds,
        "verify_s": _since(start),
    }


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
