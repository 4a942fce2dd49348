"""The zoo's tables: what counts as passed, which promises are said to be kept; and box suppression in Python."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

GOOD: dict[str, Any] = {
    "zoo": "torchvision", "model": "net", "mode": "hybrid", "ok": True, "stage": "done", "nodes": 9, "axes": 3,
    "params": 100, "macs": 1000, "coverage_params": 1.0, "coverage_macs": 0.995, "unknown": [], "seconds": 2.0,
    "capture_s": 0.1, "couple_s": 0.1, "peak_bytes": 2**20, "model_bytes": 400, "share_of_allowed_memory": 0.01,
}  # fmt: skip
CUT: dict[str, Any] = {
    "ok": True, "params": 50, "macs": 400, "kept_of_removable": 0.5, "work_cpu_s": 1.5, "verified": True,
    "error": 2e-16, "change": 0.5, "values_equal": True, "price_exact": True, "survives": True, "surgery": "module",
    "spliced": 0, "spliced_paths": [], "own_share": 1.0, "rewritten_share": 0.0, "reload": "equal",
}  # fmt: skip


def record(model: str, mode: str = "hybrid", **changes: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD | {"budget": CUT, "random": CUT} | {"model": model, "mode": mode} | changes)


def failed(model: str) -> dict[str, Any]:
    base = {"zoo": "torchvision", "model": model, "mode": "hybrid", "ok": False, "stage": "capture", "seconds": 1.0}
    return base | {"error": "CaptureError: no", "trace": "…"}


def test_what_fails_is_counted_and_told() -> None:
    from zoo.tables import reason_of, summarise

    wrong = record("wrong", ok=False, random=CUT | {"ok": False, "verified": False, "error": 0.5})
    found = summarise([record("net"), wrong, failed("none")], 3)
    assert (found["captured"], found["budget_ok"], found["random_ok"], found["ok"]) == (2, 2, 1, 1)
    assert (found["verified"], found["cuts"]) == (3, 4)
    assert found["worst_error"] == 0.5
    assert found["on_target"] == 2
    assert reason_of(wrong) == "random: error 5.0e-01, change 5.0e-01"
    assert reason_of(failed("none")) == "capture: CaptureError: no"


def test_promises_are_met_or_not() -> None:
    from zoo.catalog import ZOOS
    from zoo.claims import claims
    from zoo.tables import summarise

    empty = {zoo: summarise([], 1) for zoo in ZOOS}
    one = [record("net", share_of_allowed_memory=1.2), record("other", budget=CUT | {"kept_of_removable": 0.6})]
    rows = claims({"hybrid": empty | {"torchvision": summarise(one, 2)}, "graph": empty})
    told = {claim: met for claim, _, met in rows if "torchvision" in claim and "tasks" not in claim}
    assert told["hybrid mode, random kept shares, 5 to 90 %: all of torchvision ok"]
    assert not told["graph mode, random kept shares, 5 to 90 %: all of torchvision ok"]
    assert not told["torchvision: 50 ± 2 % of the removable parameters stay"]
    assert not told["torchvision: peak memory ≤ 3 × the model + 1 GB"]
    assert told["torchvision: coverage of MACs ≥ 99% at the median"]


def test_the_files_keep_what_was_not_run_again(tmp_path: Path) -> None:
    from zoo.tables import write_tables

    write_tables({("hybrid", "torchvision", "net"): record("net")}, tmp_path, "one")
    write_tables({("hybrid", "torchvision", "none"): failed("none")}, tmp_path, "two")
    document = json.loads((tmp_path / "zoo.json").read_text())
    assert [r["model"] for r in document["models"]] == ["net", "none"]
    assert "trace" not in document["models"][1]
    page = (tmp_path / "zoo.md").read_text()
    assert "| net | yes | – | 50% / 50% | 40% / 40% |" in page
    assert "- hybrid: torchvision none: capture: CaptureError: no" in page
    assert "**not met**" in page
