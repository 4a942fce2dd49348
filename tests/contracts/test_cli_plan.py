"""plan → review → edit → apply through the real command, on the digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prunus
from prunus.experiments.workloads import WORKLOADS

RECIPE = (
    "version: 1\nmodel: digits\ndata: digits\ntrain: {steps: 6}\n"
    "prune: {budget: {params: 0.5}, criterion: magnitude, repair: none}\nignore: [head]\n"
)


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from prunus.cli.main import main; main()", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text(RECIPE)
    done = run("plan", "recipe.yaml", "-o", "plan", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "saves params" in done.stdout
    assert "stem.conv:out" in done.stdout
    return folder


def test_plan_edit_apply_load(place: Path) -> None:
    text = json.loads((place / "plan" / "plan.json").read_text())
    (place / "edited").mkdir()
    for file in (place / "plan").iterdir():
        (place / "edited" / file.name).write_bytes(file.read_bytes())
    text["axes"]["stem.conv:out"]["keep"] = "0-9"
    text["after"]["params"] = 1
    text["settings"]["criterion"] = "mine"
    (place / "edited" / "plan.json").write_text(json.dumps(text))
    done = run("apply", "edited", "-o", "small", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "edited: stem.conv:out" in done.stdout
    assert "edited: after: this edit is not read; prices are computed" in done.stdout
    assert "edited: settings.criterion: this edit is not read; the plan was made with 'magnitude'" in done.stdout
    assert "masked ≡ cut: ok" in done.stdout
    small = prunus.load(place / "small", WORKLOADS.get("digits").build(0))
    assert small.get_submodule("stem.conv").out_channels == 10  # type: ignore[union-attr]
    told = run("diff", "plan", "edited", cwd=place).stdout
    assert "stem.conv:out" in told


def test_an_edit_beyond_the_budget_writes_nothing(place: Path) -> None:
    (place / "greedy").mkdir()
    for file in (place / "plan").iterdir():
        (place / "greedy" / file.name).write_bytes(file.read_bytes())
    text = json.loads((place / "plan" / "plan.json").read_text())
    text["axes"] = {"stem.conv:out": {"size": 32, "keep": "0-30"}}
    text["settings"]["budget"] = {"params": 0.99}  # an edit of the budget lifts nothing
    (place / "greedy" / "plan.json").write_text(json.dumps(text))
    done = run("apply", "greedy", "-o", "never", cwd=place)
    assert done.returncode == 2
    assert "breaks its budget: params" in done.stderr.strip().splitlines()[-1]
    assert not (place / "never").exists()


def test_planning_again_scores_nothing_and_trains_nothing(place: Path) -> None:
    done = run("plan", "plan", "-b", "macs=0.3", "-o", "smaller", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["after"]["macs_forward"] <= 0.3 * plan["before"]["macs_forward"]
    for name in ("scores.safetensors", "dense.safetensors"):
        assert (place / "smaller" / name).read_bytes() == (place / "plan" / name).read_bytes()
    digests = {json.loads((place / name / "recipe.json").read_text())["weights"] for name in ("plan", "smaller")}
    assert len(digests) == 1


def test_sweep_prints_a_front(place: Path) -> None:
    done = run("plan", "plan", "--sweep", "0.3,0.7", "-o", "sweep", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)
    assert [p["kept"] for p in points] == [0.7, 0.3]
    assert points[0]["params"] > points[1]["params"]
    assert all(torch.isfinite(torch.tensor(p["loss"])) for p in points)
    assert all((place / p["folder"] / "plan.json").is_file() for p in points)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "recipe.yaml", "-b", "parms=0.5"), "Did you mean 'params'"),
        (("plan", "recipe.yaml", "-b", "params"), "METRIC=AMOUNT"),
        (("plan", "recipe.yaml", "--criterion", "magnitud"), "magnitude"),
        (
            ("plan", "recipe.yaml", "--method", "importance", "-b", "macs=0.5"),
            "sets weights to zero, which does not change macs",
        ),
        (("plan", "plan", "--sweep", "0.5,2"), "between 0 and 1"),
        (("apply", "nowhere"), "No plan at"),
        (("diff", "plan", "nowhere"), "No plan at"),
    ],
)
def test_bad_input_is_one_line(place: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words, cwd=place)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_weights_that_changed_since_are_refused(place: Path) -> None:
    (place / "stale").mkdir()
    for file in (place / "plan").iterdir():
        if file.name != "dense.safetensors":
            (place / "stale" / file.name).write_bytes(file.read_bytes())
    recipe = json.loads((place / "stale" / "recipe.json").read_text())
    recipe["recipe"]["train"]["steps"] = 2
    (place / "stale" / "recipe.json").write_text(json.dumps(recipe))
    done = run("apply", "stale", "-o", "never", cwd=place)
    assert done.returncode == 2
    assert "was made for weights" in done.stderr


def test_prune_does_it_all(place: Path) -> None:
    (place / "all.yaml").write_text(RECIPE + "recover: {steps: 4}\ncompare: {latency: {rounds: 2, batch: 4}}\n")
    done = run("prune", "all.yaml", "-o", "whole", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    (row,) = results["runs"]
    assert row["method"] == "magnitude"
    assert row["params"] <= 0.5 * results["dense"]["params"]
    assert row["check_error"] < 1e-4
    assert (place / "whole" / "report.html").is_file()
    assert json.loads((place / "whole" / "results.json").read_text()) == results
    small = prunus.load(place / "whole", WORKLOADS.get("digits").build(0))
    assert sum(p.numel() for p in small.parameters()) == row["params"]
    shown = run("report", "whole", "-o", "page.html", cwd=place)
    assert shown.returncode == 0, shown.stderr
    assert "<svg" in (place / "page.html").read_text()


def test_from_inspect_to_report_on_glyphs(tmp_path: Path) -> None:
    """The whole way of a person who reads, edits, applies and shows a plan, every step in a process of its own."""
    (tmp_path / "glyphs.yaml").write_text(
        "version: 1\nmodel: glyphs/resnet\ndata: glyphs\ntrain: {steps: 4, batch_size: 32}\n"
        "prune: {budget: {macs: 0.5}, bounds: {conv1: {frozen: true}}}\n"
    )
    seen = run("inspect", "glyphs/resnet", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    assert "layer1.0.conv1" in seen.stdout
    made = run("plan", "glyphs.yaml", "-o", "plan", "--allocator", "knapsack", "--damage", "--no-pay", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "R = " in made.stdout
    text = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert "conv1:out" not in text["axes"]
    assert all(d["damage"] is not None for d in text["decisions"])
    axis = max(text["axes"], key=lambda name: text["axes"][name]["size"])
    text["axes"][axis]["keep"] = "0-3"
    (tmp_path / "plan" / "plan.json").write_text(json.dumps(text))
    done = run("apply", "plan", "-o", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"edited: {axis}" in done.stdout
    assert "masked ≡ cut: ok" in done.stdout
    planned = run("report", "plan", "-o", "plan.html", "--no-pay", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert f"{axis}: " in (tmp_path / "plan.html").read_text()
