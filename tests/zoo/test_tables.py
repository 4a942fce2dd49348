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
    "zoo": "torchvision",
    "model": "net",
    "mode": "hybrid",
    "ok": True,
    "stage": "done",
    "nodes": 9,
    "axes": 3,
    "params": 100,
    "macs": 1000,
    "coverage_params": 1.0,
    "coverage_macs": 0.995,
    "unknown": [],
    "seconds": 2.0,
    "capture_s": 0.1,
    "couple_s": 0.1,
    "peak_bytes": 2**20,
    "model_bytes": 400,
    "share_of_allowed_memory": 0.01,
}
CUT: dict[str, Any] = {
    "ok": True,
    "params": 50,
    "macs": 400,
    "kept_of_removable": 0.5,
    "work_cpu_s": 1.5,
    "verified": True,
    "error": 2e-16,
    "change": 0.5,
    "values_equal": True,
    "price_exact": True,
    "survives": True,
    "surgery": "module",
    "spliced": 0,
    "spliced_paths": [],
    "own_share": 1.0,
    "rewritten_share": 0.0,
    "reload": "equal",
}


def record(model: str, mode: str = "hybrid", **changes: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD | {"budget": CUT, "random": CUT} | {"model": model, "mode": mode} | changes)


def failed(model: str) -> dict[str, Any]:
    base = {"zoo": "torchvision", "model": model, "mode": "hybrid", "ok": False, "stage": "capture", "seconds": 1.0}
    return base | {"error": "CaptureError: no", "trace": "…"}


KEPT: dict[str, Any] = {
    "ok": True,
    "reached": True,
    "wanted_macs": 0.5,
    "work_cpu_s": 2.0,
    "params": 50,
    "macs": 480,
    "rewritten": 0,
    "rewritten_paths": [],
    "mended": 2,
    "shipped": 0,
    "same_program": True,
    "verified": True,
    "error": 3e-16,
    "change": 0.5,
    "price_exact": True,
    "proved_batches": 3,
    "sizes": ["batch 3 of 64×64"],
    "reload": "equal",
}


def kept(model: str, share: float = 1.0, **changes: Any) -> dict[str, Any]:
    base = {k: v for k, v in GOOD.items() if k != "nodes"}
    covered = {"coverage_params": share, "coverage_params_rewritten": 1.0}
    found = {"ok": not changes, "budget": KEPT | changes}
    return copy.deepcopy(base | covered | found | {"model": model, "mode": "keep"})


def test_what_keeping_forwards_costs_is_counted_and_told(tmp_path: Path) -> None:
    from zoo.claims import claims
    from zoo.tables import summarise_kept, write_tables

    far = kept("far", 0.5, reached=False, because="Out of reach.", proved_batches=1, sizes=[])
    records = [kept("net"), kept("half", 0.9), far, kept("own", rewritten=2, rewritten_paths=["", "a"])]
    found = summarise_kept(records, 4)
    assert (found["reached"], found["rewritten"], found["models_rewritten"], found["three_batches"]) == (3, 2, 1, 3)
    assert (found["share_median"], found["share_worst"], found["other_size"], found["ok"]) == (0.95, 0.5, 3, 2)
    told = {claim: met for claim, _, met in claims({"hybrid": {}, "graph": {}, "keep": {"torchvision": found}})}
    assert len(told) == 5
    assert not any(told.values())
    good = summarise_kept([kept(str(n)) for n in range(80)], 80)
    assert all(met for _, _, met in claims({"hybrid": {}, "graph": {}, "keep": {"torchvision": good}}))
    write_tables({("keep", "torchvision", r["model"]): r for r in records}, tmp_path, "one")
    page = (tmp_path / "zoo.md").read_text()
    assert "| net | yes | 48% | 50% | 1.000 / 1.000 | 0 | 2 | 0 | 3e-16 | 3 | 64×64 | 2.0 s | 1 MB | 2 s |" in page
    assert "- torchvision far: half is out of reach: Out of reach." in page
    assert "- torchvision own: 2 forwards rewritten: the top level, a" in page
    assert "- torchvision far: proved at 1 batch sizes; the dense model takes no other" in page


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
