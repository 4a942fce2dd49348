"""docs/zoo.json from the records of every mode, and docs/zoo.md from it."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import ZOOS, counts
from .pages import reason_of, write_page

Record = dict[str, Any]
MODES = ("graph", "hybrid")


def write_tables(records: Mapping[tuple[str, str, str], Record], folder: Path, state: str) -> None:
    """Write both files; modes and models that were not run now keep what stands in ``zoo.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "zoo.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"models": []}
    merged = {(r["mode"], r["zoo"], r["model"]): r for r in old["models"]}
    merged |= {key: {k: v for k, v in r.items() if k != "trace"} for key, r in records.items()}
    ordered = sorted(merged.values(), key=lambda r: (MODES.index(r["mode"]), ZOOS.index(r["zoo"]), r["model"]))
    states = dict(old.get("states", {})) | {key[0]: state for key in records if state}
    expected = counts()
    summary = {m: {z: summarise(_of(ordered, m, z), expected[z]) for z in ZOOS} for m in MODES}
    document = {"schema": "prunus-zoo/2", "states": states, "summary": summary, "models": ordered}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_page(document, folder / "zoo.md")


def _of(records: Sequence[Record], mode: str, zoo: str) -> list[Record]:
    return [r for r in records if r["mode"] == mode and r["zoo"] == zoo]


def summarise(records: Sequence[Record], expected: int) -> Record:
    """Count what passed and take medians over one zoo in one mode."""
    reached = [r for r in records if "coverage_params" in r]
    cuts = [r[k] for r in records for k in ("half", "budget", "random") if k in r]
    kept = [c for c in cuts if "surgery" in c]
    found = {
        "models": expected,
        "tried": len(records),
        "captured": sum("nodes" in r for r in records),
        "half_ok": _passed(records, "half"),
        "budget_ok": _passed(records, "budget"),
        "random_ok": _passed(records, "random"),
        "ok": sum(bool(r["ok"]) for r in records),
        "cuts": len(cuts),
        "verified": sum(bool(c.get("verified", "error" in c and c["ok"])) for c in cuts),
        "coverage_params_median": _median([r["coverage_params"] for r in reached]),
        "coverage_macs_median": _median([r["coverage_macs"] for r in reached]),
        "worst_error": max((c.get("error", 0.0) for c in cuts), default=0.0),
        "capture_s": round(sum(r.get("capture_s", 0.0) for r in records), 1),
        "couple_s": round(sum(r.get("couple_s", 0.0) for r in records), 1),
        "unknown_ops": dict(Counter(op for r in reached for op in r["unknown"])),
    }
    return found | (_survival(kept) if kept else {})


def _survival(cuts: Sequence[Record]) -> Record:
    return {
        "ways": dict(Counter(c["surgery"] for c in cuts)),
        "survives": sum(c["survives"] for c in cuts),
        "reloads_equal": sum(c["reload"] == "equal" for c in cuts),
        "top_rewritten": sum("" in c["spliced_paths"] for c in cuts),
        "own_share_median": _median([c["own_share"] for c in cuts]),
        "untouched_share_median": _median([1 - c["rewritten_share"] for c in cuts]),
        "spliced_median": _median([c["spliced"] for c in cuts]),
        "work_cpu_s_max": max(c["work_cpu_s"] for c in cuts),
    }


def _passed(records: Sequence[Record], kind: str) -> int:
    return sum(bool(r.get(kind, {}).get("ok")) for r in records)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4) if values else 0.0


__all__ = ["MODES", "reason_of", "summarise", "write_tables"]
