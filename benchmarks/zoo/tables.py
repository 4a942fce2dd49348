"""docs/zoo.json from the records of every mode, and docs/zoo.md from it."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalog import ZOOS, counts
from .kept import KEEP
from .pages import reason_of, write_page
from .trial import KINDS

Record = dict[str, Any]
MODES = ("hybrid", "graph", KEEP)
SCHEMA = "prunus-zoo/4"
OLDER = ("prunus-zoo/3",)


def write_tables(records: Mapping[tuple[str, str, str], Record], folder: Path, state: str) -> None:
    """Write both files; modes and models that were not run now keep what stands in ``zoo.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "zoo.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if old.get("schema") not in (SCHEMA, *OLDER):
        old = {"models": []}
    merged = {(r["mode"], r["zoo"], r["model"]): r for r in old["models"]}
    merged |= {key: _without_traces(r) for key, r in records.items()}
    ordered = sorted(merged.values(), key=lambda r: (MODES.index(r["mode"]), ZOOS.index(r["zoo"]), r["model"]))
    states = dict(old.get("states", {})) | {key[0]: state for key in records if state}
    expected = counts()
    summary = {m: {z: SUMMARIES[m](_of(ordered, m, z), expected[z]) for z in ZOOS} for m in MODES}
    document = {"schema": SCHEMA, "states": states, "summary": summary, "models": ordered}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_page(document, folder / "zoo.md")


def _without_traces(record: Record) -> Record:
    inner = {k: {i: v for i, v in c.items() if i != "trace"} for k, c in record.items() if k in KINDS}
    return {k: v for k, v in record.items() if k != "trace"} | inner


def _of(records: Sequence[Record], mode: str, zoo: str) -> list[Record]:
    return [r for r in records if r["mode"] == mode and r["zoo"] == zoo]


def summarise(records: Sequence[Record], expected: int) -> Record:
    """Count what passed and take medians over one zoo in one mode."""
    reached = [r for r in records if "coverage_params" in r]
    cuts = [r[k] for r in records for k in KINDS if k in r]
    kept = [c for c in cuts if "survives" in c]
    budgets = [r["budget"]["kept_of_removable"] for r in records if "kept_of_removable" in r.get("budget", {})]
    memory = [r["share_of_allowed_memory"] for r in records if "share_of_allowed_memory" in r]
    found = {
        "models": expected,
        "tried": len(records),
        "captured": len(reached),
        "in_parts": sum("parts" in r for r in records),
        "ok": sum(bool(r["ok"]) for r in records),
        "budget_ok": _passed(records, "budget"),
        "random_ok": _passed(records, "random"),
        "on_target": sum(0.48 <= share <= 0.52 for share in budgets),
        "cuts": len(cuts),
        "verified": sum(bool(c.get("verified")) for c in cuts),
        "coverage_params_median": _median([r["coverage_params"] for r in reached]),
        "coverage_macs_median": _median([r["coverage_macs"] for r in reached]),
        "worst_error": max((c.get("error") or 0.0 for c in cuts if isinstance(c.get("error"), float)), default=0.0),
        "capture_s": round(sum(r.get("capture_s", 0.0) for r in records), 1),
        "couple_s": round(sum(r.get("couple_s", 0.0) for r in records), 1),
        "work_cpu_s_max": max((c["work_cpu_s"] for c in cuts if "work_cpu_s" in c), default=0.0),
        "trial_cpu_s": round(sum(r.get("cpu_seconds", 0.0) for r in records), 0),
        "peak_bytes_max": max((r["peak_bytes"] for r in records if "peak_bytes" in r), default=0),
        "memory_kept": sum(share <= 1 for share in memory),
        "memory_measured": len(memory),
        "share_of_allowed_memory_max": max(memory, default=0.0),
        "unknown_ops": dict(Counter(op for r in reached for op in r["unknown"])),
    }
    return found | (_survival(kept) if kept else {})


def summarise_kept(records: Sequence[Record], expected: int) -> Record:
    """Count, over one zoo, what was cut with the forwards kept, and how much of what rewriting could remove is left."""
    reached = [r for r in records if "coverage_params" in r]
    cuts = [r["budget"] for r in records if "rewritten" in r.get("budget", {})]
    shares = [share_of_rewriting(r) for r in reached]
    return {
        "models": expected,
        "tried": len(records),
        "ok": sum(bool(r["ok"]) for r in records),
        "cuts": len(cuts),
        "reached": sum(c["reached"] for c in cuts),
        "rewritten": sum(c["rewritten"] for c in cuts),
        "models_rewritten": sum(c["rewritten"] > 0 for c in cuts),
        "three_batches": sum(c["proved_batches"] >= 3 for c in cuts),
        "other_size": sum(any(" of " in size for size in c["sizes"]) for c in cuts),
        "share_median": _median(shares),
        "share_worst": min(shares, default=0.0),
        "worst_error": max((c["error"] for c in cuts), default=0.0),
        "work_cpu_s_max": max((c["work_cpu_s"] for c in cuts), default=0.0),
        "trial_cpu_s": round(sum(r.get("cpu_seconds", 0.0) for r in records), 0),
        "peak_bytes_max": max((r["peak_bytes"] for r in records if "peak_bytes" in r), default=0),
    }


def share_of_rewriting(record: Record) -> float:
    """Return how much of the parameters that rewriting could remove can go with the forwards kept."""
    whole = record["coverage_params_rewritten"]
    return round(record["coverage_params"] / whole, 4) if whole else 1.0


SUMMARIES = {"hybrid": summarise, "graph": summarise, KEEP: summarise_kept}


def _survival(cuts: Sequence[Record]) -> Record:
    return {
        "ways": dict(Counter(c["surgery"] for c in cuts)),
        "survives": sum(c["survives"] for c in cuts),
        "reloads_equal": sum(c.get("reload") == "equal" for c in cuts),
        "top_rewritten": sum("" in c["spliced_paths"] for c in cuts),
        "own_share_median": _median([c["own_share"] for c in cuts]),
        "untouched_share_median": _median([1 - c["rewritten_share"] for c in cuts]),
        "mostly_own": sum(c["own_share"] >= 0.9 for c in cuts),
        "mostly_untouched": sum(1 - c["rewritten_share"] >= 0.9 for c in cuts),
        "spliced_median": _median([c["spliced"] for c in cuts]),
    }


def _passed(records: Sequence[Record], kind: str) -> int:
    return sum(bool(r.get(kind, {}).get("ok")) for r in records)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4) if values else 0.0


__all__ = ["MODES", "reason_of", "share_of_rewriting", "summarise", "summarise_kept", "write_tables"]
