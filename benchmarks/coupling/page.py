"""docs/bench/coupling.md: what is promised beside what was measured, then every model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.claims import claims_table

from .language import NAME

Row = dict[str, Any]
PRUNE = "prunus.prune"
_TOOLS = ("prunus", "torch-pruning")


def summary(rows: Sequence[Row], language: Row) -> Row:
    """Return the totals over all rows."""
    done = [r for r in rows if r["prunus"]["ok"]]
    both = [r for r in done if r["torch-pruning"]["ok"]]
    mine = {r["model"]: r["prunus"] for r in done}
    found: Row = {
        "models": len(rows),
        "prunus_ok": len(done),
        "torch_pruning_ok": sum(r["torch-pruning"]["ok"] for r in rows),
        "both": len(both),
        "prunus_slowest": max((r["seconds"] for r in mine.values()), default=0.0),
        "densenet201_seconds": mine.get("densenet201", {}).get("seconds"),
        "prunus_median_coverage": statistics.median(r["coverage"] for r in mine.values()) if mine else 0.0,
        "share_of_allowed_memory_max": max((r["share_of_allowed_memory"] for r in mine.values()), default=0.0),
        "peak_bytes_max": max((r["peak_bytes"] for r in mine.values()), default=0),
        NAME: language,
    }
    for key in ("seconds", "cpu_seconds") if both else ():
        ratios = [r["prunus"][key] / r["torch-pruning"][key] for r in both]
        totals = [sum(r[tool][key] for r in both) for tool in _TOOLS]
        found[key] = {
            "totals": totals,
            "total_ratio": totals[0] / totals[1],
            "geometric_mean_ratio": math.exp(statistics.fmean(map(math.log, ratios))),
            "ratio_quartiles": statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3,
        }
    proved = [r for r in both if r.get(PRUNE, {}).get("ok")]
    for name, chosen in (("all", proved), ("any_size", [r for r in proved if r[PRUNE]["any_size"]])):
        for key in ("seconds", "cpu_seconds") if chosen else ():
            ratios = [r[PRUNE][key] / r["torch-pruning"][key] for r in chosen]
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            found[f"prune_{name}_{key}"] = {"models": len(ratios), "geometric_mean_ratio": mean, "quartiles": quartiles}
    found["proved"] = sum(bool(r.get(PRUNE, {}).get("ok")) for r in rows)
    return found


def claims(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return (claim, measured, met)."""
    slowest, dense, memory = (
        found[k] for k in ("prunus_slowest", "densenet201_seconds", "share_of_allowed_memory_max")
    )
    llama, n = found[NAME], found["models"]
    rows = [
        ("every classifier is cut by prune, forwards kept, and proved", f"{found['proved']}/{n}", found["proved"] == n),
        (
            "every classifier is cut",
            f"{found['prunus_ok']}/{n} (Torch-Pruning: {found['torch_pruning_ok']})",
            found["prunus_ok"] == n,
        ),
    ]
    for key, unit in (("seconds", "s"), ("cpu_seconds", "s of processor time")):
        if key not in found:
            continue
        told = found[key]
        mine, other = told["totals"]
        total = f"{mine:.1f} {unit} against {other:.1f}: {told['total_ratio']:.2f}"
        mean = told["geometric_mean_ratio"]
        where = f"over the {found['both']} models that both cut"
        rows += [
            (f"total {where} ≤ Torch-Pruning's", total, told["total_ratio"] <= 1),
            ("aim: ≤ ¼ of it", total, told["total_ratio"] <= 0.25),
            ("geometric mean of the ratios ≤ 0.6", f"{mean:.2f}", mean <= 0.6),
        ]
        for name, words, most in (("all", "all", 2.5), ("any_size", "those that take any size of images", 1.5)):
            prune = found.get(f"prune_{name}_{key}")
            if prune:
                mean = prune["geometric_mean_ratio"]
                spread = " to ".join(f"{q:.2f}" for q in (prune["quartiles"][0], prune["quartiles"][2]))
                rows.append(
                    (
                        f"prune with its proof at three batch sizes, {key.replace('_', ' ')}, {words} "
                        f"({prune['models']} models): geometric mean ≤ {most}",
                        f"{mean:.2f}, quartiles {spread}",
                        mean <= most,
                    )
                )
    rows.append(("no model over 20 s", f"slowest {slowest:.1f} s", slowest <= 20))
    if dense is not None:
        rows.append(("densenet201 ≤ 8 s", f"{dense:.1f} s", dense <= 8))
    worst = f"worst {memory:.0%} of it, most {found['peak_bytes_max'] / 2**30:.2f} GB"
    rows.append(("peak memory ≤ 3 × the model + 1 GB", worst, memory <= 1))
    if llama["ok"]:
        seconds, peak = llama["seconds"], llama["peak_gigabytes"]
        rows += [
            (
                f"{NAME}: captured, coupled, priced, planned in ≤ 60 s",
                f"{seconds:.1f} s, {llama['params'] / 1e9:.1f} billion parameters, {llama['axes']} axes",
                seconds <= 60,
            ),
            (f"{NAME}: ≤ 4 GB", f"{peak:.2f} GB", peak <= 4),
        ]
    else:
        rows.append((f"{NAME}: captured, coupled, priced, planned", str(llama.get("reason", "budget missed")), False))
    return rows


def page(found: Mapping[str, Any], rows: Sequence[Row], about: Mapping[str, str]) -> str:
    """Return the page."""
    lines = [
        "# Coupling and cutting, side by side with Torch-Pruning 1.6.1",
        "",
        f"Command: `make bench-coupling` · torch {about['torch']} · {about['cpu']} · 1 thread, one model at a time, "
        "each in a process of its own.",
        "",
        claims_table(claims(found)),
        "Timed: capture + couple + plan + cut (prunus, its second capture included; verify apart) against building the "
        "dependency graph + pruning. Torch-Pruning's “ok” means that its network runs; attention stays whole there. "
        "Peak: the most memory held between the imports and the end of the cut, the model included.",
        "",
    ]
    for key in ("seconds", "cpu_seconds"):
        if key in found:
            quartiles = ", ".join(f"{q:.2f}" for q in found[key]["ratio_quartiles"])
            lines.append(f"- quartiles of the ratio, {key.replace('_', ' ')}: {quartiles}")
    lines += [
        f"- median coverage {found['prunus_median_coverage']:.4f}",
        "",
        "| model | prunus s | capture | MB | kept | mode | Torch-Pruning s | peak MB | kept | ratio | prune s | MB "
        "| proved | ratio |",
        "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(row: Row) -> str:
    a, b = (row[tool] for tool in _TOOLS)
    left = f"– | – | – | – | {a.get('reason')}"
    if a["ok"]:
        left = (
            f"{a['seconds']:.2f} | {a['capture']:.2f} | {a['peak_bytes'] / 2**20:.0f} | {a['kept_params']:.0%} "
            f"| {a['mode']}"
        )
    right = f"{b.get('reason')} | – | –"
    if b["ok"]:
        right = f"{b['seconds']:.2f} | {b['peak_bytes'] / 2**20:.0f} | {b['kept_params']:.0%}"
    ratio = f"{a['seconds'] / b['seconds']:.2f}" if a["ok"] and b["ok"] else "–"
    c = row.get(PRUNE, {"ok": False, "reason": "–"})
    prune = f"– | – | {c.get('reason', 'not proved')} | –"
    if c["ok"]:
        of = f"{c['seconds'] / b['seconds']:.2f}" if b["ok"] else "–"
        sizes = dict.fromkeys(size.partition(" of ")[2] or "the example's size" for size in c["sizes"])
        prune = f"{c['seconds']:.2f} | {c['peak_bytes'] / 2**20:.0f} | {', '.join(sizes)} | {of}"
    return f"| {row['model']} | {left} | {right} | {ratio} | {prune} |"
