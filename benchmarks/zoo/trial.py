"""One model: capture, couple, cut to half and at random, verify, price; the outcome as plain records, one a mode."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.analysis.score import make_plan
from prunus.cost.price import cost_model
from prunus.graph.coupling import Coupling, couple
from prunus.graph.partial_capture import Captured, capture_or_parts
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.record import Surgery

from .catalog import Entry
from .choices import described, kept_of_removable, kept_sets, survival
from .memory import Baseline
from .proof import Prover
from .storing import stored_and_loaded

KINDS = ("budget", "random")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is tried.

    Attributes:
        modes: how it is cut; every mode gets the same plans, and the references of the proof are run once.
        kinds: which cuts: ``budget`` (half of the removable parameters), ``random`` shares of every axis, ``half`` of
            every axis.
        seed: for weights and kept units.
        prove: run the networks and compare; without, only the programs are compared.
    """

    modes: tuple[str, ...] = ("hybrid", "graph")
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    prove: bool = True


@dataclass(frozen=True, slots=True)
class _Analysis:
    """A model on the table."""

    entry: Entry
    model: nn.Module
    inputs: Any
    captured: Captured
    coupling: Coupling
    baseline: Baseline
    work_cpu_s: float


@dataclass(frozen=True, slots=True)
class _Cut:
    """One plan carried out in one mode."""

    small: nn.Module
    surgery: Surgery
    found: Record


def run_trial(entry: Entry, options: Options = Options()) -> list[Record]:
    """Try one model and return its records, one a mode; an error is part of a record, never raised."""
    torch.manual_seed(options.seed)
    started, cpu = time.perf_counter(), time.process_time()
    base: Record = {"zoo": entry.zoo, "model": entry.name, "ok": False, "stage": "build"}
    records = {mode: {"mode": mode} for mode in options.modes}
    try:
        subject = _prepared(entry, base)
        prover = Prover(
            subject.captured.model,
            subject.coupling,
            subject.captured.inputs,
            torch.float32 if entry.giant else torch.float64,
        )
        for kind in options.kinds:
            base["stage"] = kind
            _try_kind(subject, kind, options, prover if options.prove else None, records)
        base["stage"] = "done"
    except Exception as error:
        base |= _failure(error)
    base["seconds"] = round((time.perf_counter() - started) / len(records), 2)
    base["cpu_seconds"] = round((time.process_time() - cpu) / len(records), 2)
    return [_finished(base | record, options.kinds) for record in records.values()]


def _finished(record: Record, kinds: tuple[str, ...]) -> Record:
    cuts = [record.get(kind, {}) for kind in kinds]
    return record | {"ok": record["stage"] == "done" and all(c.get("ok") for c in cuts)}


def _failure(error: Exception) -> Record:
    text = str(error).strip() or "no message"
    return {"error": f"{type(error).__name__}: {text.splitlines()[0][:300]}", "trace": traceback.format_exc(limit=-8)}


def _prepared(entry: Entry, base: Record) -> _Analysis:
    baseline = Baseline.now()
    model, inputs = entry.build()
    base["stage"] = "capture"
    work, start = time.process_time(), time.perf_counter()
    captured = capture_or_parts(model, inputs)
    graph = captured.graph
    base |= {"how": graph.how, "capture_s": _since(start), "nodes": len(graph.nodes), "stage": "couple"}
    if captured.parts:
        base |= {"parts": list(captured.parts), "parts_because": captured.reason}
    start = time.perf_counter()
    coupling = couple(graph)
    base["couple_s"] = _since(start)
    work = time.process_time() - work
    base |= described(coupling)
    if not coupling.axes:
        raise ValueError("no removable axis")
    return _Analysis(entry, model, inputs, captured, coupling, baseline, work)


def _try_kind(
    subject: _Analysis, kind: str, options: Options, prover: Prover | None, records: dict[str, Record]
) -> None:
    """Cut one plan in every mode; a mode that fails does not keep the others from being tried."""
    planning = time.process_time()
    plan = make_plan(subject.coupling, kept_sets(subject.coupling, kind, options.seed))
    planning = time.process_time() - planning
    cuts: dict[str, _Cut] = {}
    for mode in options.modes:
        try:
            cuts[mode] = _cut(subject, plan, mode, planning)
            records[mode][kind] = cuts[mode].found
        except Exception as error:
            records[mode][kind] = {"ok": False, **_failure(error)}
    if kind == options.kinds[0]:
        for record in records.values():
            record |= subject.baseline.describe(subject.model)
    if prover is not None:
        _prove(prover, plan, list(cuts.values()))
    for mode, done in cuts.items():
        if mode != "graph":
            _store(subject, plan, done)


def _prove(prover: Prover, plan: Plan, cuts: list[_Cut]) -> None:
    reference = prover.masked(plan)
    for done in cuts:
        found = done.found
        try:
            found |= prover.judge(done.small, reference)
            found["ok"] &= found["verified"] and found["price_exact"]
        except Exception as error:
            found |= {"ok": False, **_failure(error)}


def _cut(subject: _Analysis, plan: Plan, mode: str, planning: float) -> _Cut:
    start, cpu = time.perf_counter(), time.process_time()
    small, surgery = cut_with_record(subject.captured.model, subject.coupling, plan, subject.captured.inputs, mode=mode)
    cut_seconds, cut_cpu = _since(start), time.process_time() - cpu
    predicted = cost_model(subject.coupling).price(plan.axes)
    params = sum(p.numel() for p in small.parameters())
    found: Record = {
        "ok": predicted.params == params,
        "params": predicted.params,
        "macs": predicted.macs_forward,
        "kept_of_removable": kept_of_removable(subject.coupling, predicted.params),
        "kind": type(small).__name__,
        "cut_s": cut_seconds,
        "work_cpu_s": round(subject.work_cpu_s + planning + cut_cpu, 2),
    }
    if mode != "graph":
        found |= survival(subject.model, small, surgery)
        found["ok"] &= found["survives"] and found["surgery"] != "graph"
    return _Cut(small, surgery, found)


def _store(subject: _Analysis, plan: Plan, done: _Cut) -> None:
    """Save, load and compare; last, for in parts the cut model becomes the user's own class again."""
    found = done.found
    try:
        small = subject.captured.restored(done.small, subject.model)
        found |= stored_and_loaded(subject.entry, small, plan, done.surgery, subject.inputs)
        found["ok"] &= found["reload"] == "equal"
    except Exception as error:
        found |= {"ok": False, "reload": "failed", **_failure(error)}


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)
