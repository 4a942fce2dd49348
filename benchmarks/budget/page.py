"""docs/bench/budget.md: what is promised beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.claims import claims_table

from .scales import SEVERAL, UNIFORM, UNITS, WEIGHTS

Row = dict[str, Any]
Rows = Mapping[str, Row]
OURS = SEVERAL[0]
NEAR = 0.06
_HOW = (
    "Accuracy on the test split after each workload's own recovery, the same for all. Bytes are those of the file: "
    "masked weights are stored as a bitmap and what is left. Equal time is met by measuring: each method plans again "
    "until the measured ratio is within 3 %, four times at most; times within 6 % count as equal. Widths stay at "
    "multiples of 8, so narrow networks cannot meet every time. Differences: mean over the seeds on which both met the "
    "budget, with its 95 % interval (Student's t); methods that missed it on some seed say on how many they met it."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One budget on one workload."""

    workload: str
    metric: str
    kept: str

    def name(self, method: str, seed: int) -> str:
        """Return the name of a row."""
        return f"scales/{self.workload}/{self.metric}/{method}/{self.kept}/{seed}"

    def met(self, row: Row) -> bool:
        """Whether a row met the budget; a measured time counts as equal within 6 %."""
        return row["ok"] and (self.metric != "latency_ms" or abs(row["time"] / float(self.kept) - 1) <= NEAR)

    def __str__(self) -> str:
        what = {"bytes": "bytes", "latency_ms": "measured time"}[self.metric]
        return f"{self.workload}, {float(self.kept):.0%} of the {what}"


def paired(rows: Rows, ours: str, theirs: str, cell: Cell, seeds: int) -> tuple[float, float, float]:
    """Return the mean difference in accuracy over seeds, with a 95 % interval over seeds (Student's t)."""
    found = []
    for seed in range(seeds):
        a, b = (rows.get(cell.name(method, seed)) for method in (ours, theirs))
        if a and b and cell.met(a) and cell.met(b):
            found.append(a["accuracy"] - b["accuracy"])
    if len(found) < 2:
        return (math.nan,) * 3
    quantile = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}.get(len(found) - 1, 2.1)
    mean, half = statistics.fmean(found), quantile * statistics.stdev(found) / math.sqrt(len(found))
    return mean, mean - half, mean + half


def cells(rows: Rows) -> list[Cell]:
    """Return where methods met: workload, metric and kept share, in the order of the log."""
    found = {}
    for key in rows:
        if key.startswith("scales/"):
            start, _, kept, _ = key.rsplit("/", 3)
            workload, metric = start.removeprefix("scales/").rsplit("/", 1)
            found[Cell(workload, metric, kept)] = None
    return list(found)


def best_single(rows: Rows, cell: Cell, seeds: int) -> str | None:
    """Return the single level of highest mean accuracy; only those that met the budget on most seeds count."""
    means = {
        m: accuracy for m in (*UNITS, *WEIGHTS) if (accuracy := _mean(rows, cell, m, seeds, "accuracy")) is not None
    }
    return max(means, key=lambda m: means[m], default=None)


def _mean(rows: Rows, cell: Cell, method: str, seeds: int, field: str) -> float | None:
    found = [rows.get(cell.name(method, seed)) for seed in range(seeds)]
    done = [r[field] for r in found if r and cell.met(r)]
    return statistics.fmean(done) if len(done) > seeds / 2 else None


def page(rows: Rows, about: Mapping[str, str], seeds: int) -> str:
    """Return the text of the page."""
    lines = [
        "# One budget over all levels",
        "",
        f"Command: `make bench-budget` · torch {about['torch']} · {about['cpu']} · one thread.",
        "",
        claims_table(claims(rows, seeds)),
        "",
        *_latency(rows),
        "",
        *_scales(rows, seeds),
    ]
    return "\n".join(lines) + "\n"


def claims(rows: Rows, seeds: int) -> list[tuple[str, str, bool]]:
    """Return (claim, measured, met) for what has been run."""
    found = []
    exact = [r for k, r in rows.items() if k.startswith("exact/")]
    if exact:
        plans, equal, over = (sum(r[f] for r in exact) for f in ("plans", "price_is_count", "over_budget"))
        found.append(("price(plan) equals the count of the cut network", f"{equal} of {plans} plans", equal == plans))
        found.append(("integer budgets never exceeded", f"{over} of {plans} exceed", over == 0))
    for key, row in rows.items():
        kind, *rest = key.split("/")
        name = "/".join(rest)
        if kind == "tree":
            told = f"{row['seconds']:.2f} s, {row['cpu_seconds']:.2f} s of processor time"
            found.append(
                (f"a tree of {row['nodes']} nodes × {row['levels']} levels in ≤ 2 s", told, row["seconds"] <= 2)
            )
        elif kind == "search":
            told = f"{row['seconds']:.0f} s; loss rise {row['loss_rise_before']:.3f} → {row['loss_rise_after']:.3f}"
            found.append((f"{row['evaluations']} true-loss evaluations in ≤ 5 min", told, row["seconds"] <= 300))
        elif kind == "meet":
            low, high = row["interval"]
            told = f"measured {row['measured']:.3f} ({low:.3f}–{high:.3f}), predicted {row['predicted']:.3f}"
            found.append((f"{name}: half the time, measured 0.45–0.55", told, 0.45 <= row["measured"] <= 0.55))
        elif kind == "predict":
            told = f"{row['median_error']:.1%}, worst {row['worst_error']:.1%} of {len(row['points'])}"
            found.append((f"{name}: median error of predicted time ≤ 10 %", told, row["median_error"] <= 0.1))
    gains = [r["gain"][0] for k, r in rows.items() if k.startswith("against/")]
    if gains:
        told = f"mean gain {statistics.fmean(gains):+.2%}, {sum(g > 0 for g in gains)} of {len(gains)} networks"
        found.append(
            ("planned for milliseconds beats planned for MACs at equal time", told, statistics.fmean(gains) > 0)
        )
    return [*found, *_scale_claims(rows, seeds)]


def _latency(rows: Rows) -> list[str]:
    found = {k: r for k, r in rows.items() if k.startswith("against/")}
    if not found:
        return []
    lines = [
        "## Planned for milliseconds against planned for MACs, equal predicted time",
        "",
        "| network, seed | accuracy, for ms | accuracy, for MACs | gain, paired 95 % interval | time, for ms | "
        "time, for MACs |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for key, row in found.items():
        gain, low, high = row["gain"]
        lines.append(
            f"| {key.removeprefix('against/')} | {row['latency']['accuracy']:.2%} | {row['macs']['accuracy']:.2%} | "
            f"{gain:+.2%} ({low:+.2%} to {high:+.2%}) | {row['latency']['measured'][0]:.2f} | "
            f"{row['macs']['measured'][0]:.2f} |"
        )
    return lines


def _scale_claims(rows: Rows, seeds: int) -> list[tuple[str, str, bool]]:
    found = []
    for cell in cells(rows):
        single = best_single(rows, cell, seeds)
        even = paired(rows, OURS, UNIFORM, cell, seeds)
        if single is None or math.isnan(even[0]):
            continue
        best = paired(rows, OURS, single, cell, seeds)
        found.append(
            (f"{cell}: {OURS} at least as accurate as the best single level ({single})", _interval(best), best[0] >= 0)
        )
        found.append((f"{cell}: {OURS} better than uniform, interval above 0", _interval(even), even[1] > 0))
    return found


def _scales(rows: Rows, seeds: int) -> list[str]:
    lines = [f"## Several scales under one budget against one level, {seeds} seeds", "", _HOW, ""]
    for cell in cells(rows):
        lines += [
            f"### {cell}",
            "",
            "| method | accuracy | before recovery | bytes | time | multi-scale − it |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for method in (*SEVERAL, *UNITS, *WEIGHTS):
            done = [r for s in range(seeds) if (r := rows.get(cell.name(method, s))) and cell.met(r)]
            if not done:
                continue
            mean = [statistics.fmean(r[f] for r in done) for f in ("accuracy", "before", "bytes", "time")]
            gain = "–" if method == OURS else _interval(paired(rows, OURS, method, cell, seeds))
            met = "" if len(done) == seeds else f" ({len(done)} of {seeds} seeds)"
            lines.append(f"| {method}{met} | {mean[0]:.2%} | {mean[1]:.2%} | {mean[2]:,.0f} | {mean[3]:.2f} | {gain} |")
        lines.append("")
    return lines


def _interval(values: tuple[float, float, float]) -> str:
    return "–" if math.isnan(values[0]) else f"{values[0]:+.2%} ({values[1]:+.2%} to {values[2]:+.2%})"
