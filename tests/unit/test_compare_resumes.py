"""A comparison keeps what is finished: a run that fails or a kill costs no other run."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from prunus.errors import BudgetError, PrunusError
from prunus.experiments import comparison
from prunus.experiments.comparison import compare
from prunus.experiments.finished_runs import UNFINISHED, FinishedRuns
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.foundation.places import MANIFEST
from prunus.report.results import Results, Skipped

NET = """
import torch
from torch import nn

def model():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))

def data():
    torch.manual_seed(1)
    x = torch.randn(60, 6)
    batch = [(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())]
    return {name: batch for name in ("train", "calibration", "selection", "test")}
"""
RECIPE = """
version: 1
model: net.py:model
data: net.py:data
train: {steps: 4}
recover: {steps: 3}
threads: 1
compare: {methods: [magnitude, sensitivity], kept: [0.6, 0.4], seeds: 2, latency: {rounds: 1, batch: 4}}
"""
RUNS = 8
TIMES = ("seconds", "latency_")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def timeless(results: Results) -> list[dict[str, Any]]:
    rows = [asdict(row) for row in (*results.dense_runs, *results.runs)]
    return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]


def enter_counted(monkeypatch: pytest.MonkeyPatch, fail: Any = lambda method, kept, seed: None) -> list[Any]:
    made, plain = [], comparison.enter

    def enter(trial: Any, method: Any, kept: float, repair: str) -> Any:
        made.append((method.name, kept, trial.seed))
        fail(method.name, kept, trial.seed)
        return plain(trial, method, kept, repair)

    monkeypatch.setattr(comparison, "enter", enter)
    return made


def test_an_interrupted_comparison_goes_on_and_gives_equal_results(recipe, tmp_path, monkeypatch):
    whole = compare(recipe, out=tmp_path / "whole")
    out = tmp_path / "out"
    trained = []
    plain = comparison.prepare
    monkeypatch.setattr(comparison, "prepare", lambda *a: (trained.append(a[3] is None), plain(*a))[1])

    def stop_at(count: int) -> Any:
        def fail(*_: Any) -> None:
            if len(made) == count:
                raise KeyboardInterrupt

        return fail

    made: list[Any] = []
    done: list[Any] = []
    for count in (3, 4):
        with monkeypatch.context() as patch:
            made = enter_counted(patch, stop_at(count))
            with pytest.raises(KeyboardInterrupt):
                compare(recipe, out=out)
        done += made[:-1]
        assert (out / UNFINISHED).is_dir()
        assert not (out / "results.json").exists()
    made = enter_counted(monkeypatch)
    resumed = compare(recipe, out=out)
    assert sorted(done + made) == sorted(set(done + made))
    assert len(done + made) == RUNS
    assert trained.count(True) == 2
    assert timeless(resumed) == timeless(whole)
    assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "report.html", "results.json"]


def test_a_killed_comparison_goes_on(recipe, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from prunus.experiments import comparison\n"
        "plain, left = comparison.enter, [2]\n"
        "def enter(*a):\n"
        "    left[0] -= 1\n"
        "    left[0] < 0 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(*a)\n"
        "comparison.enter = enter\n"
        f"comparison.compare({str(recipe)!r}, out={str(tmp_path / 'out')!r})\n"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr[-500:]
    log = next((tmp_path / "out" / UNFINISHED).rglob("*.jsonl"))
    # What a kill may leave of a line, and one that another program changed.
    lines = [line for line in log.read_text().splitlines() if line]
    log.write_text("\n".join([*lines[:-1], lines[-1].replace('"seed": 0', '"seed": 1'), lines[0][:40]]))
    kept = FinishedRuns.of(load_recipe(recipe), tmp_path / "out")
    assert len(kept._entries) == len(lines) - 1 == 2
    resumed = compare(recipe, out=tmp_path / "out")
    assert timeless(resumed) == timeless(compare(recipe))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_reported_and_the_others_go_on(recipe, tmp_path, monkeypatch, workers):
    # The recipe's file breaks a method in every process that imports it.
    monkeypatch.setattr(comparison, "enter", comparison.enter)
    end = "os.kill(os.getpid(), signal.SIGKILL)" if workers > 1 else "raise ZeroDivisionError(1)"
    (tmp_path / "net.py").write_text(
        f"{NET}\nimport os, signal\nfrom prunus.experiments import comparison\nplain = comparison.enter\n"
        f"def enter(trial, method, *rest):\n    if method.name == 'sensitivity':\n        {end}\n"
        "    return plain(trial, method, *rest)\ncomparison.enter = enter\n"
    )
    recipe.write_text(RECIPE.replace("[0.6, 0.4]", "[0.6]").replace("seeds: 2", "seeds: 1") + f"workers: {workers}\n")
    results = compare(recipe, out=tmp_path / "out")
    assert [row.method for row in results.runs] == ["magnitude"]
    (skipped,) = results.skipped
    reason = "ZeroDivisionError: 1" if workers == 1 else "its process ended"
    assert skipped.method == "sensitivity"
    assert skipped.reason.startswith(f"failed with seed 0: {reason}")
    assert "failed with seed 0" in (tmp_path / "out" / "report.html").read_text()


def test_a_failure_with_one_seed_keeps_the_other_seed(recipe, tmp_path, monkeypatch):
    def fail(method: str, kept: float, seed: int) -> None:
        if (method, kept, seed) == ("magnitude", 0.6, 1):
            raise MemoryError

    made = enter_counted(monkeypatch, fail)
    results = compare(recipe, out=tmp_path / "out")
    assert len(made) == RUNS
    assert len(results.runs) == RUNS - 1
    assert [s.reason for s in results.skipped] == ["failed with seed 1: MemoryError: no reason given"]


def test_where_every_run_fails_one_line_says_why(recipe, monkeypatch):
    def fail(*_: Any) -> None:
        raise ValueError("bad\nworse")

    enter_counted(monkeypatch, fail)
    with pytest.raises(BudgetError, match=r"ValueError: bad$"):
        compare(recipe)


def test_another_recipe_or_other_weights_take_nothing_over(tmp_path):
    first = Recipe(version=1, model="digits", data="digits")
    runs = FinishedRuns.of(first, tmp_path)
    entry = Skipped("magnitude", 0.5, "out of reach")
    runs.add("abc", (0, "magnitude", 0.5), entry)
    again = FinishedRuns.of(first, tmp_path)
    assert again.get("abc", (0, "magnitude", 0.5)) == entry
    assert again.get("other", (0, "magnitude", 0.5)) is None
    other = FinishedRuns.of(first.model_copy(update={"seed": 3}), tmp_path)
    assert other.get("abc", (0, "magnitude", 0.5)) is None
    (again.folder / "mine.txt").write_text("mine")
    again.remove()
    assert [p.name for p in again.folder.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(recipe, tmp_path, monkeypatch):
    made = enter_counted(monkeypatch)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PrunusError, match="cannot write"):
        compare(recipe, out=tmp_path / "file" / "out")
    assert not made


@pytest.mark.parametrize("name", ["results.json", "report.html"])
def test_files_of_the_user_with_the_names_of_results_stay(recipe, tmp_path, monkeypatch, name):
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("mine")
    entered = enter_counted(monkeypatch)
    with pytest.raises(PrunusError, match=f"its '{name}' was not written by prunus"):
        compare(recipe, out=out)
    assert (entered, (out / name).read_text()) == ([], "mine")


class Told:
    """Keeps the lines that a comparison shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, task: str, total: int) -> None: ...
    def advance(self, task: str, n: int = 1) -> None: ...
    def finish(self, task: str) -> None: ...
    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_finished_comparison_makes_nothing_again(recipe, tmp_path, monkeypatch):
    out, told = tmp_path / "out", Told()
    first = compare(recipe, out=out, progress=told)
    assert told.lines == []
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    entered = enter_counted(monkeypatch)
    monkeypatch.setattr(comparison, "prepare", lambda *a: pytest.fail("nothing is trained or prepared"))
    for _ in range(2):
        assert compare(recipe, out=out, progress=told) == first
    assert entered == []
    line = f"{RUNS} of {RUNS} runs taken from {out / 'results.json'}; delete it to start anew."
    assert told.lines == [line, line]
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_only_new_runs_and_those_that_failed_are_made(recipe, tmp_path, monkeypatch):
    out, told = tmp_path / "out", Told()
    recipe.write_text(RECIPE.replace("[0.6, 0.4]", "[0.6]").replace("seeds: 2", "seeds: 1"))
    with monkeypatch.context() as patch:
        enter_counted(patch, lambda method, *_: 1 / 0 if method == "sensitivity" else None)
        assert len(compare(recipe, out=out).runs) == 1
    recipe.write_text(RECIPE)
    entered = enter_counted(monkeypatch)
    results = compare(recipe, out=out, progress=told)
    assert len(entered) == RUNS - 1
    assert ("magnitude", 0.6, 0) not in entered
    assert told.lines == [f"1 of {RUNS} runs taken from {out / 'results.json'}; delete it to start anew."]
    assert timeless(results) == timeless(compare(recipe))


@pytest.mark.parametrize("change", ["recipe", "code", "damage", "version"])
def test_results_of_something_else_are_not_taken(recipe, tmp_path, monkeypatch, change):
    out = tmp_path / "out"
    recipe.write_text(RECIPE.replace("[0.6, 0.4]", "[0.6]").replace("seeds: 2", "seeds: 1"))
    compare(recipe, out=out)
    if change == "recipe":
        recipe.write_text(recipe.read_text().replace("recover: {steps: 3}", "recover: {steps: 2}"))
    elif change == "code":
        (tmp_path / "net.py").write_text(NET.replace("manual_seed(1)", "manual_seed(2)"))
    elif change == "damage":
        text = (out / "results.json").read_text()
        (out / "results.json").write_text(text.replace('"seed": 0', '"seed":  0').replace("magnitude", "magnitudf"))
    else:
        monkeypatch.setattr("prunus.experiments.finished_runs.VERSION", "0.0.0")
    entered = enter_counted(monkeypatch)
    compare(recipe, out=out)
    assert len(entered) == 2


def test_a_link_in_the_place_of_the_log_is_refused(recipe, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNFINISHED).symlink_to(tmp_path / "elsewhere")
    entered = enter_counted(monkeypatch)
    with pytest.raises(PrunusError, match="'unfinished' is a symbolic link"):
        compare(recipe, out=tmp_path / "out")
    assert entered == []
    assert list((tmp_path / "elsewhere").iterdir()) == []
