"""docs/bench/budget.md: what is promised beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from zoo.claims import claims_table

from .scales import SEVERAL

Row = dict[str, Any]
Rows = Mapping[str, Row]


def paired(rows: Rows, ours: str, theirs: str, workload: str, kept: float, seeds: int) -> tuple[float, float, float]:
    """Return the mean difference in accuracy over seeds and samples, with a 95 % interval over seeds (Student's t)."""
    found = []
    for seed in range(seeds):
        a, b = (rows.get(f"scales/{workload}/{m}/{kept}/{seed}") for m in (ours, theirs))
        if a and b and a["ok"] and b["ok"]:
            found.append(a["accuracy"] - b["accuracy"])
    if len(found) < 2:
        return (math.nan,) * 3
    quantile = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}.get(len(found) - 1, 2.1)
    mean, half = statistics.fmean(found), quantile * statistics.stdev(found) / math.sqrt(len(found))
    return mean, mean - half, mean + half


def page(rows: Rows, about: Mapping[str, str], seeds: int) -> str:
    """Return the text of the page."""
    lines = ["# One budget over all levels", "",
             f"Command: `make bench-budget` · torch {about['torch']} · {about['cpu']} · one thread.", "",
             claims_table(claims(rows)), "", *_latency(rows), "", *_scales(rows, seeds)]  # fmt: skip
    return "\n".join(lines) + "\n"


def claims(rows: Rows) -> list[tuple[str, str, bool]]:
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
    return found


def _latency(rows: Rows) -> list[str]:
    found = {k: r for k, r in rows.items() if k.startswith("against/")}
    if not found:
        return []
    lines = ["## Planned for milliseconds against planned for MACs, equal predicted time", "",
             "| network, seed | accuracy, for ms | accuracy, for MACs | gain, paired 95 % interval | time, for ms | "
             "time, for MACs |", "|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for key, row in found.items():
        gain, low, high = row["gain"]
        lines.append(
            f"| {key.removeprefix('against/')} | {row['latency']['accuracy']:.2%} | {row['macs']['accuracy']:.2%} | "
            f"{gain:+.2%} ({low:+.2%} to {high:+.2%}) | {row['latency']['measured'][0]:.2f} | "
            f"{row['macs']['measured'][0]:.2f} |"
        )
    return lines


def _scales(rows: Rows, seeds: int) -> list[str]:
    cells = sorted({tuple(k.split("/", 1)[1].rsplit("/", 3)[:3:2]) for k in rows if k.startswith("scales/")})
    lines = ["## Several scales under one budget against one level", ""]
    for workload, kept in cells:
        share = float(kept)
        methods = [k.rsplit("/", 3)[1] for k in rows if k.startswith(f"scales/{workload}/") and f"/{kept}/" in k]
        lines += [f"### {workload}, {share:.0%} of the parameters", "",
                  "| method | accuracy | before recovery | bytes | time | tree-knapsack − it | multi-scale − it |",
                  "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        for method in dict.fromkeys(methods):
            mine = [rows.get(f"scales/{workload}/{method}/{kept}/{s}") for s in range(seeds)]
            done = [r for r in mine if r and r["ok"]]
            if not done:
                continue
            mean = [statistics.fmean(r[f] for r in done) for f in ("accuracy", "before", "bytes", "time")]
            gains = ["–" if method == several else _interval(paired(rows, several, method, workload, share, seeds))
                     for several in reversed(SEVERAL)]  # fmt: skip
            lines.append(f"| {method} ({len(done)}) | {mean[0]:.2%} | {mean[1]:.2%} | {mean[2]:,.0f} | {mean[3]:.2f} | "
                         f"{gains[0]} | {gains[1]} |")  # fmt: skip
        lines.append("")
    return lines


def _interval(values: tuple[float, float, float]) -> str:
    return "–" if math.isnan(values[0]) else f"{values[0]:+.2%} ({values[1]:+.2%} to {values[2]:+.2%})"
