"""The metrics of a plan before and after, for the heads of pictures and pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunus.budget.counts import COUNTS
from prunus.budget.limits import FS_PER_MS, METRICS, parse_budget
from prunus.plans import UNPRICED, Plan
from prunus.report.formats import count, size
from prunus.report.outline import Pair, Part


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric of the header: its name, and the function that writes an amount."""

    metric: str
    label: str
    form: Callable[[float], str]


METERS = (
    Meter("params", "parameters", count),
    Meter("macs", "forward MACs", count),
    Meter("bytes", "bytes", size),
    Meter("latency_ms", "predicted time", lambda fs: f"{fs / FS_PER_MS:.3g} ms"),
)


def asked(settings: Mapping[str, Any]) -> str:
    """Return the request of a plan in one line: budget, method, criterion, allocator."""
    budget = settings.get("budget") or {}
    words = [
        f"{metric}{' ' if metric in COUNTS else ' ≤ '}{f'{value:.4g}' if isinstance(value, float) else value}"
        for metric, value in budget.items()
    ]
    words += [f"{key} {settings[key]}" for key in ("method", "criterion", "allocator") if settings.get(key)]
    return "  ·  ".join(words)


def meters(plan: Plan, root: Part) -> list[tuple[Meter, Pair]]:
    """Return every metric with the cost of the whole before and after; parameters at zero are not counted."""
    found = []
    for meter in METERS:
        before, after = (int(getattr(c, METRICS[meter.metric])) for c in (plan.before, plan.after))
        if meter.metric in ("params", "macs"):
            before, after = root.params if meter.metric == "params" else root.macs
        if meter.metric == "params" and plan.masks:
            meter = replace(meter, label=f"{meter.label} not zero")
        if before:
            found.append((meter, (before, after)))
    return found


def limit_share(plan: Plan, metric: str) -> float | None:
    """Return the budget of a metric as a share of the whole; None where it has none."""
    budget, before = plan.settings.get("budget") or {}, plan.before
    if metric not in budget or before == UNPRICED:
        return None
    (limit,) = parse_budget({metric: budget[metric]}, before)
    whole: int = getattr(before, METRICS[metric])
    return min(1.0, limit.value / whole)
