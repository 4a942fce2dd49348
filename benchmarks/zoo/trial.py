"""One model: capture, couple, cut by half and at random, verify, price; the outcome as a plain record."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.layout import atoms_of
from prunus.measurement.price import cost_model
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import cut
from prunus.surgery.verify import compare_models

from .catalog import Entry

KINDS = ("half", "random")


def run_trial(entry: Entry, *, mode: str = "graph", kinds: tuple[str, ...] = KINDS, seed: int = 0) -> dict[str, Any]:
    """Try one model and return its record; an error is part of the record, never raised."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    record: dict[str, Any] = {"zoo": entry.zoo, "model": entry.name, "mode": mode, "ok": False, "stage": "build"}
    try:
        _try(entry, record, mode, kinds, seed)
    except Exception as error:
        text = str(error).strip() or "no message"
        record["error"] = f"{type(error).__name__}: {text.splitlines()[0][:300]}"
        record["trace"] = traceback.format_exc(limit=-8)
    record["seconds"] = round(time.perf_counter() - started, 2)
    return record


def _try(entry: Entry, record: dict[str, Any], mode: str, kinds: tuple[str, ...], seed: int) -> None:
    model, inputs = entry.build()
    record["stage"] = "capture"
    start = time.perf_counter()
    graph = capture(model, inputs)
    record |= {"how": graph.how, "capture_s": _since(start), "nodes": len(graph.nodes), "stage": "couple"}
    start = time.perf_counter()
    coupling = couple(graph)
    record |= {"couple_s": _since(start)} | _describe(coupling)
    if not coupling.axes:
        raise ValueError("no removable axis")
    for kind in kinds:
        record["stage"] = kind
        keep = kept_sets(coupling, kind, seed)
        record[kind] = _cut_and_verify(model, inputs, coupling, keep, mode, entry.giant)
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
    """Draw which units stay: half of every axis, or a share between 5 and 90 % of each."""
    generator = np.random.default_rng(seed)
    keep = {}
    for axis in coupling.axes.values():
        share = 0.5 if kind == "half" else generator.uniform(0.05, 0.9)
        mask = np.zeros(axis.size, bool)
        mask[generator.permutation(axis.size)[: max(1, int(axis.size * share))]] = True
        keep[axis.id] = mask
    return keep


def _cut_and_verify(
    model: nn.Module, inputs: Any, coupling: Coupling, keep: dict[str, np.ndarray], mode: str, giant: bool
) -> dict[str, Any]:
    plan = Plan(fingerprint(coupling.graph), keep, {})
    start = time.perf_counter()
    small = cut(model, coupling, plan, inputs, mode=mode)
    cut_seconds = _since(start)
    start = time.perf_counter()
    predicted = cost_model(coupling).price(keep)
    counted = cost_model(couple(capture(small, inputs))).price()
    count_seconds = _since(start)
    start = time.perf_counter()
    check = compare_models(model, small, coupling, plan, inputs, dtype=torch.float32 if giant else torch.float64)
    return {
        "ok": bool(check.ok and predicted == counted and check.change > 1e-6),
        "error": float(f"{check.error:.2e}"),
        "change": float(f"{check.change:.2e}"),
        "values_equal": check.values_equal,
        "price_exact": predicted == counted,
        "counted": None if predicted == counted else [str(predicted), str(counted)],
        "params": predicted.params,
        "macs": predicted.macs_forward,
        "kind": type(small).__name__,
        "cut_s": cut_seconds,
        "count_s": count_seconds,
        "verify_s": _since(start),
    }


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
