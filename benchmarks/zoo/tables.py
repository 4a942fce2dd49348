"""docs/zoo.json and docs/zoo.md from the records."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import ZOOS

Record = dict[str, Any]
HEAD = """# The zoo

Every model is captured, coupled and cut twice in graph mode: half of every removable axis, then a random share
(5 to 90 %) of each with random units. A cut is *ok* when the cut model computes what the masked original computes
(relative error ≤ 1e-4, constants perturbed, float64; float32 above 100 million parameters, batch 1 above 40 million),
when its output differs from the uncut one, and when the predicted params and MACs equal those counted on the cut model.
*Coverage* is the share of parameters (of forward MACs) that at least one removable axis shrinks; a bare encoder's
hidden state is an output and stays. Written by `make zoo`; the numbers are in `zoo.json`.
"""


def write_tables(records: Sequence[Record], expected: Mapping[str, int], folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(records, key=lambda r: (ZOOS.index(r["zoo"]), r["model"]))
    clean = [{k: v for k, v in r.items() if k != "trace"} for r in ordered]
    summary = {zoo: summarise([r for r in ordered if r["zoo"] == zoo], expected[zoo]) for zoo in ZOOS}
    document = {"schema": "prunus-zoo/1", "summary": summary, "models": clean}
    (folder / "zoo.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    parts = [HEAD, _summary_table(summary), _failures(ordered)]
    parts += [_model_table(zoo, [r for r in ordered if r["zoo"] == zoo]) for zoo in ZOOS]
    (folder / "zoo.md").write_text("\n".join(p for p in parts if p), encoding="utf-8")


def summarise(records: Sequence[Record], expected: int) -> Record:
    """Count what passed and take medians over a zoo."""
    reached = [r for r in records if "coverage_params" in r]
    cuts = [r[k] for r in records for k in ("half", "random") if k in r]
    return {
        "models": expected,
        "tried": len(records),
        "captured": sum("nodes" in r for r in records),
        "half_ok": sum(bool(r.get("half", {}).get("ok")) for r in records),
        "random_ok": sum(bool(r.get("random", {}).get("ok")) for r in records),
        "ok": sum(bool(r["ok"]) for r in records),
        "coverage_params_median": _median([r["coverage_params"] for r in reached]),
        "coverage_macs_median": _median([r["coverage_macs"] for r in reached]),
        "worst_error": max((c["error"] for c in cuts), default=0.0),
        "capture_s": round(sum(r.get("capture_s", 0.0) for r in records), 1),
        "couple_s": round(sum(r.get("couple_s", 0.0) for r in records), 1),
        "unknown_ops": dict(Counter(op for r in reached for op in r["unknown"])),
    }


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4) if values else 0.0


def _summary_table(summary: Mapping[str, Record]) -> str:
    lines = [
        "| zoo | captured | half ok | random ok | coverage params / MACs, median | worst error | capture | couple |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for zoo, s in summary.items():
        lines.append(
            f"| {zoo} | {s['captured']}/{s['models']} | {s['half_ok']}/{s['models']} | {s['random_ok']}/{s['models']} "
            f"| {s['coverage_params_median']:.3f} / {s['coverage_macs_median']:.3f} | {s['worst_error']:.0e} "
            f"| {s['capture_s']:.0f} s | {s['couple_s']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def _failures(records: Sequence[Record]) -> str:
    lines = [f"- {r['zoo']} {r['model']}: {reason_of(r)}" for r in records if not r["ok"]]
    return "## What does not pass\n\n" + "\n".join(lines) + "\n" if lines else ""


def reason_of(record: Record) -> str:
    """Say in a few words why a model is not ok."""
    if "error" in record:
        return f"{record['stage']}: {record['error']}"
    words = []
    for kind in ("half", "budget", "random"):
        result = record.get(kind, {})
        if result and not result["ok"]:
            words.append(f"{kind}: {', '.join(_faults(result))}")
    return "; ".join(words) or "not finished"


def _faults(result: Record) -> list[str]:
    words = []
    if result.get("surgery") == "graph":
        words.append("fell back to graph mode")
    if result.get("reload", "equal") != "equal":
        words.append(f"reload: {result['reload']}")
    if "error" in result:
        words.append(f"error {result['error']:.1e}, change {result['change']:.1e}")
        words += [] if result["price_exact"] else ["price differs"]
        words += [] if result["values_equal"] else ["tensors are not the slices"]
    return words or ["params differ"]


def _model_table(zoo: str, records: Sequence[Record]) -> str:
    lines = [
        f"## {zoo}\n",
        "| model | ok | axes | coverage params / MACs | kept params, MACs (half) | error half / random | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        lines.append(f"| {r['model']} | {'yes' if r['ok'] else 'no'} | {' | '.join(_cells(r))} |")
    return "\n".join(lines) + "\n"


def _cells(record: Record) -> list[str]:
    half, rand = record.get("half"), record.get("random")
    seconds = f"{record.get('capture_s', 0):.1f} + {record.get('couple_s', 0):.2f}"
    if "axes" not in record:
        return ["", "", "", "", seconds]
    kept = f"{half['params'] / record['params']:.0%}, {half['macs'] / max(record['macs'], 1):.0%}" if half else ""
    errors = " / ".join(f"{k['error']:.0e}" if k else "–" for k in (half, rand))
    coverage = f"{record['coverage_params']:.3f} / {record['coverage_macs']:.3f}"
    return [str(record["axes"]), coverage, kept, errors, seconds]
