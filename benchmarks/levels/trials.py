"""The rows: an arm cut, trained and scored; merging beside dropping; bridges; a chain that loses whole layers."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

from prunus.errors import PrunusError

from .arms import options_of
from .cases import Case, Row, case_of


def arm(net: str, kept: float, name: str, seed: int) -> Row:
    """Prune to a share of the parameters by one arm, train for the common steps, and score."""
    case, started = case_of(net, seed), time.process_time()
    try:
        row = _pruned(case, {"params": kept}, dict(options_of(name, case)))
    except PrunusError as error:
        row = {"ok": False, "reason": _reason(error)}
    return {**row, "cpu_seconds": time.process_time() - started}


def merging(net: str, kept: float, method: str, seed: int) -> Row:
    """Score one plan that drops and one that merges, right after the cut; ``error`` is that of the outputs."""
    case, started, rows = case_of(net, seed), time.process_time(), dict[str, Row]()
    for merge in (False, True):
        try:
            rows["merged" if merge else "dropped"] = _raw(case, {"params": kept}, {"method": method, "merge": merge})
        except PrunusError as error:
            return {"ok": False, "reason": _reason(error), "cpu_seconds": time.process_time() - started}
    return {"ok": True, **rows, "cpu_seconds": time.process_time() - started}


def reconnection(net: str, modules: float, way: str, seed: int) -> Row:
    """Reconnect what the modules of least importance leave in one way; score before and after training."""
    case, started = case_of(net, seed), time.process_time()
    try:
        row = _pruned(case, {"modules": modules}, {"method": "modular", "reconnect": way})
    except PrunusError as error:
        row = {"ok": False, "reason": _reason(error)}
    return {**row, "cpu_seconds": time.process_time() - started}


def _reason(error: PrunusError) -> str:
    """Return the kind and the line of an error, with paths from the source folder on."""
    return re.sub(r"/\S*/src/", "src/", f"{type(error).__name__}: {error}")


def _pruned(case: Case, budget: Row, options: Row) -> Row:
    from prunus.outcome import realise
    from prunus.pipeline.planner import planned
    from prunus.pipeline.request import Request

    found = planned(case.analysis, Request.of(budget, {**options, "recover": case.recovery}), learn=True)
    raw = realise(case.analysis, found.plan, repair=None, weights=found.weights)
    cut = case.scored(raw.model)
    small = raw if found.learned else _trained(case, raw)
    return {
        "ok": True,
        **case.scored(small.model),
        "cut_accuracy": cut["accuracy"],
        "cut_nll": cut["nll"],
        "kept": _share(found.plan),
        "proved": raw.check is not None and raw.check.ok,
        "decisions": dict(Counter(decision.level for decision in found.plan.decisions)),
        "bridges": [str(bridge.path) for bridge in found.plan.bridges],
    }


def _trained(case: Case, outcome: Any) -> Any:
    from prunus.outcome import recovered

    return recovered(outcome, case.recovery)


def _raw(case: Case, budget: Row, options: Row) -> Row:
    from prunus.outcome import realise
    from prunus.pipeline import plan_for

    plan = plan_for(case.analysis, budget, **options)
    outcome = realise(case.analysis, plan, repair=None)
    scored = case.scored(outcome.model)
    merges = len(plan.merges)
    return {"nll": scored["nll"], "accuracy": scored["accuracy"], "merges": merges, "kept": _share(plan)}


def _share(plan: Any) -> float:
    share: float = (plan.after.params - plan.masked) / plan.before.params
    return share
