"""The input size at the doors of recipes and of the command line: one plan, resized data, and one line for an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import prunus
from prunus.analysis.input_size import size_of
from prunus.cli.main import main
from prunus.plans import Plan
from prunus.report.results import Results

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.body, self.head = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.body(torch.relu(self.norm(self.stem(x)))))
        return self.head(x.mean((2, 3)))

def model():
    return Net()

def data():
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = (x.mean((1, 2, 3)) > 0).long() + 2 * (x[:, 0].mean((1, 2)) > 0).long()
    return {name: (x, y) for name in ("train", "calibration", "selection", "test")}
"""
RECIPE = """
version: 1
model: net.py:model
data: net.py:data
recover: {steps: 2}
prune: {budget: {macs: 0.3}, criterion: magnitude, repair: none, resolution: [24, 16]}
compare: {latency: {rounds: 1, batch: 4}}
threads: 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(capsys: Any, *words: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    printed = capsys.readouterr()
    assert caught.value.code == 0, printed.err
    return printed.out, printed.err


def test_the_command_prunes_and_evaluates_at_the_chosen_size(recipe, tmp_path, capsys):
    out, _ = run(capsys, "prune", str(recipe), "-o", str(tmp_path / "small"))
    side = json.loads((tmp_path / "small" / "plan.json").read_text())["settings"]["input_size"]["after"][0]
    assert f"input size: {side}×{side} of 32×32" in out
    results = Results.load(tmp_path / "small" / "results.json")
    (row,) = results.runs
    assert f"input size: {side}×{side} of 32×32, chosen by selection loss" in row.notes
    assert row.macs_forward <= 0.3 * results.dense.macs_forward
    assert f"input size: {side}×{side} of 32×32" in (tmp_path / "small" / "report.html").read_text()
    space: dict[str, Any] = {}
    exec(NET, space)
    small = prunus.load(tmp_path / "small", space["model"]()).eval()
    images, targets = space["data"]()["test"]
    sized = nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
    assert row.accuracy == pytest.approx(float((small(sized).argmax(1) == targets).double().mean()))


def test_plan_and_apply_and_verify_know_the_size(recipe, tmp_path, capsys):
    plan, small = str(tmp_path / "plan"), str(tmp_path / "small")
    out, _ = run(capsys, "plan", str(recipe), "-o", plan, "--no-pay", "--no-picture", "--resolution", "16x24,20")
    assert "input size: " in out
    stored = Plan.load(Path(plan))
    run(capsys, "apply", plan, "-o", small, "--trust")
    applied = Plan.load(Path(small))
    assert (applied.before, applied.after) == (stored.before, stored.after)
    assert size_of(applied) == size_of(stored)
    out, _ = run(capsys, "verify", small, "--trust")
    assert "ok" in out


def test_recipe_command_and_python_give_one_plan(recipe, tmp_path, capsys):
    run(capsys, "plan", str(recipe), "-o", str(tmp_path / "one"), "--no-pay", "--no-picture")
    text = RECIPE.replace(", resolution: [24, 16]", "")
    (tmp_path / "other.yaml").write_text(text)
    other = str(tmp_path / "other.yaml")
    run(capsys, "plan", other, "-o", str(tmp_path / "two"), "--no-pay", "--no-picture", "--resolution", "24,16")
    one, two = ((tmp_path / name / "plan.json").read_bytes() for name in ("one", "two"))
    assert one == two
    space: dict[str, Any] = {}
    exec(NET, space)
    data = prunus.splits(space["data"]())
    analysis = prunus.analyse(space["model"](), data.test.inputs[:2], data=data)
    made = analysis.plan({"macs": 0.3}, criterion="magnitude", resolution=[24, 16])
    made.save(tmp_path / "three")
    three = json.loads((tmp_path / "three" / "plan.json").read_bytes())
    assert three["axes"] == json.loads(one)["axes"]
    assert three["settings"]["input_size"] == json.loads(one)["settings"]["input_size"]


@pytest.mark.parametrize(("value", "message"), [("64", "got 64"), ("wide", "resolution is ['wide']")])
def test_a_bad_size_of_the_command_is_one_line(recipe, tmp_path, capsys, value, message):
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(recipe), "-o", str(tmp_path / "plan"), "--no-pay", "--no-picture", "--resolution", value])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert message in printed.err
    assert not (tmp_path / "plan").exists()


def test_a_frontier_and_a_sweep_are_measured_at_the_chosen_size(recipe, tmp_path, capsys):
    small = str(tmp_path / "balance")
    run(capsys, "frontier", str(recipe), "-o", small, "--steps", "0,2", "--resolution", "16", "--recover", "lr=0.001")
    results = Results.load(tmp_path / "balance" / "results.json")
    assert results.frontier is not None
    assert results.runs[0].accuracy == results.frontier.chosen.test_accuracy
    assert "input size: 16×16 of 32×32, chosen by selection loss" in results.runs[0].notes
    out, _ = run(
        capsys, "plan", str(recipe), "-o", str(tmp_path / "s"), "--sweep", "0.3", "--resolution", "16", "--json"
    )
    (swept,) = json.loads(out)
    stored = Plan.load(tmp_path / "s" / "macs-0.3")
    assert swept["loss"] == pytest.approx(stored.settings["input_size"]["tried"][0]["loss"])


def test_the_compound_scaling_is_cited(recipe):
    assert ("resolution", "compound scaling") in [(used.role, used.name) for used in prunus.cite(recipe).used]
