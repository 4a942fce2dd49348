"""Counts of the long runs: a run that was stopped goes on from what is stored, and another seed adds to it."""

from __future__ import annotations

import importlib
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fuzz.__main__")


def run(fuzz: ModuleType, docs: Path, count: int, seed: int, anew: bool = False) -> Any:
    given = Namespace(docs=docs, count=count, seed=seed, workers=2, kept=docs / "kept", anew=anew)
    return fuzz.run_reader("plan", given)


def test_fuzz_goes_on_and_adds_seeds(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def batch(name: str, seed: int, size: int, kept: Path) -> Any:
        drawn.append((seed, size))
        return {"counts": {"refused": size - 2, "loaded": 1, "foreign x": 1}, "slowest": size / 1000}

    monkeypatch.setattr(fuzz, "_batch", batch)
    run(fuzz, tmp_path, 1500, 1)
    assert sorted(drawn) == [(100_000, 1000), (100_001, 500)]
    drawn.clear()
    whole = run(fuzz, tmp_path, 2500, 1)
    assert sorted(drawn) == [(100_002, 1000)]
    assert (whole["inputs"], whole["refused"], whole["failures"]) == (2500, 2494, {"foreign x": 3})
    drawn.clear()
    assert run(fuzz, tmp_path, 2500, 1) == whole
    assert not drawn
    run(fuzz, tmp_path, 1000, 2)
    page = (tmp_path / "reliability.md").read_text("utf-8")
    assert "| plan | 1, 2 | 3,500 | 3,492 | 4 | 4 | 1.00 |" in page
    assert "`make fuzz COUNT=2500 SEED=1`, `make fuzz COUNT=1000 SEED=2`" in page
    assert run(fuzz, tmp_path, 1000, 1, anew=True)["inputs"] == 1000
    assert set(json.loads((tmp_path / "reliability.json").read_text("utf-8"))["fuzz"]["readers"]["plan"]) == {"1", "2"}


def test_kills_go_on_and_add_seeds(fuzz: ModuleType, tmp_path: Path) -> None:
    kills, page = (importlib.import_module(f"reliability.{name}") for name in ("kills", "page"))
    tasks = importlib.import_module("reliability.tasks")

    def slow(folder: Path) -> None:
        import time

        time.sleep(0.05)
        (folder / "done").write_text("1")

    def text_of(folder: Path) -> str | None:
        return (folder / "done").read_text() if (folder / "done").exists() else None

    task = tasks.Task(slow, text_of)
    found = list(kills.kills(task, 2, 0, dict.fromkeys(kills.COUNTS, 0)))
    assert [row["kills"] for row in found] == [1, 2]
    page.write_kills(tmp_path, "save", 0, found[-1])
    more = list(kills.kills(task, 3, 0, page.stored_kills(tmp_path, "save", 0)))
    assert [row["kills"] for row in more] == [3]
    page.write_kills(tmp_path, "save", 0, more[-1])
    page.write_kills(tmp_path, "save", 7, found[-1])
    assert "| save | 0, 7 | 5 | 0 | 0 | 0 | 0 |" in (tmp_path / "reliability.md").read_text("utf-8")
    assert not list(kills.kills(task, 3, 0, more[-1]))
