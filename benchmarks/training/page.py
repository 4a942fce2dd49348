"""docs/bench/training.md: what is promised beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from zoo.claims import claims_table

from . import recovered
from .gradual import METHODS

Row = dict[str, Any]
Rows = Mapping[str, Row]
_WHEN = {
    "gradual": "from fresh weights on",
    "gradual-trained": "of the trained network, a quarter as many steps",
    "gradual-again": "of the trained network by LAMP, as many steps again",
}


def page(rows: Rows, about: Mapping[str, str]) -> str:
    """Return the text of the page."""
    lines = [
        "# Pruning while training, and recovery",
        "",
        f"Command: `make bench-training` · torch {about['torch']} · {about['cpu']} · one thread.",
        "",
        claims_table(claims(rows)),
        "",
        *_costs(rows),
        "",
        *_gradual(rows),
        *recovered.tables(rows),
    ]
    return "\n".join(lines) + "\n"


def claims(rows: Rows) -> list[tuple[str, str, bool]]:
    """Return (claim, measured, met) for what has been run."""
    found = []
    for row in (row for name, row in rows.items() if name.startswith("overhead/")):
        told = f"{row['share_of_1000']:.1%} of a step of ResNet-50, batch {row['batch']} at {row['side']}²"
        claim = f"{row['method']}: hooks and changes of weight masks cost ≤ 5 % of a training step"
        found.append((claim, told, row["share_of_1000"] <= 0.05))
    if cut := rows.get("cut/proved"):
        told = f"{cut['cpu_seconds']:.1f} s of processor time with the proof, optimizer and average carried along"
        found.append(("a structural cut of a ResNet-50 with its optimizer in ≤ 3 s", told, cut["cpu_seconds"] <= 3))
    for method, when in _WHEN.items():
        for net, lost in _losses(rows, method).items():
            told = f"{statistics.fmean(lost) * 100:+.2f} points lost over {len(lost)} seeds"
            claim = f"{net}: gradual cubic pruning to 90 % zeros, {when}, loses ≤ 0.5 points"
            found.append((claim, told, statistics.fmean(lost) <= 0.005))
    return found + recovered.claims(rows)


def _losses(rows: Rows, method: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows.values():
        if row.get("method") == method and "lost" in row:
            found.setdefault(row["workload"], []).append(row["lost"])
    return found


def _costs(rows: Rows) -> list[str]:
    lines = [
        "## What it costs",
        "",
        "Processor time on a ResNet-50 with SGD; a change of the masks happens about twenty times a training.",
        "",
        "| strategy | step | hooks | share | one change of masks | share in 1,000 steps |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        if name.startswith("overhead/"):
            lines.append(
                f"| {row['method']} | {row['step'] * 1e3:.0f} ms | {row['every_step'] * 1e3:.1f} ms "
                f"| {row['share']:.1%} | {row['update']:.2f} s | {row['share_of_1000']:.1%} |"
            )
    lines += ["", "| cut to half the parameters | seconds | processor seconds |", "|---|---:|---:|"]
    lines += [
        f"| {name.split('/')[1]} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} |"
        for name, row in rows.items()
        if name.startswith("cut/")
    ]
    return lines


def _gradual(rows: Rows) -> list[str]:
    cells = {(r["workload"], r["seed"], r["method"]): r for r in rows.values() if "method" in r and "lost" in r}
    if not cells:
        return []
    lines = [
        "## While training, and afterwards",
        "",
        "90 % of the weights zero; accuracy on the test split. Gradual, cubic: from fresh weights, in the steps "
        "of the dense network; or from the dense network, in a quarter as many steps on top, or in as many "
        "steps again with weights scored by LAMP. One shot: the dense network, then trained for a quarter as many "
        "steps.",
        "",
        "| network | seed | dense | fresh | trained, a quarter | trained, as many, LAMP | one shot, a quarter |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for net, seed in dict.fromkeys((net, seed) for net, seed, _ in cells):
        own = [cells.get((net, seed, method)) for method in METHODS]
        dense = next(row["dense"] for row in own if row)
        told = [f"{row['accuracy']:.2%}" if row else "–" for row in own]
        lines.append(f"| {net} | {seed} | {dense:.2%} | " + " | ".join(told) + " |")
    return lines
