"""``prunus verify FOLDER``: the proof again, the table of calls, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.cli.main import main
from prunus.experiments.recipe import Recipe
from prunus.foundation.checksum import with_sum

RECIPE = {"version": 1, "model": "model.py:net", "data": "noise", "data_args": {"input_shape": "2,8"}}
MODEL = """
from torch import nn


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    found = prunus.prune(net, torch.randn(2, 8), budget={"params": 0.5})
    return found.save(tmp_path / "small", metadata={"recipe": RECIPE})


def test_a_checkpoint_is_proved_with_its_calls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder), "--calls", "--trust", "--base", str(folder.parent)])
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert out.startswith("masked ≡ cut: ok")
    assert "train, backward" in out
    with pytest.raises(SystemExit):
        main(["verify", str(folder), "--json", "--trust", "--base", str(folder.parent)])
    found = json.loads(capsys.readouterr().out)
    assert found["check"]["ok"] is True
    assert found["calls"] is None


def test_a_checkpoint_finds_its_model_from_any_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(RECIPE).located(folder.parent)
    header = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(with_sum({**header, "metadata": recipe.stored(folder)})))
    (folder.parent / "elsewhere").mkdir()
    monkeypatch.chdir(folder.parent / "elsewhere")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder), "--trust"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("masked ≡ cut: ok")
    (folder.parent / "model.py").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder), "--trust"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"recipe start from {str(folder.parent.resolve())!r}; give --base for another folder" in said


@pytest.mark.parametrize("command", ["plan", "apply", "report"])
def test_a_checkpoint_is_no_plan_folder(folder: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    spaced = folder.rename(folder.parent / "small one")
    with pytest.raises(SystemExit) as ended:
        main([command, str(spaced), "-o", str(folder.parent / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "is a checkpoint of a cut network, not a plan folder; give the folder that prunus plan wrote" in said
    assert f"prunus verify '{spaced}'" in said


def test_a_plan_folder_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "prune": {"budget": {"params": 0.5}}}))
    plan = tmp_path / "my plan"
    with pytest.raises(SystemExit):
        main(["plan", str(recipe), "-o", str(plan), "--no-pay", "--no-picture"])
    assert f"then: prunus apply '{plan}' -o small --trust" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(plan)])
    assert ended.value.code == 2
    assert f"is a plan folder, not a checkpoint; first cut: prunus apply '{plan}' -o small" in capsys.readouterr().err
    monkeypatch.chdir(plan)
    with pytest.raises(SystemExit):
        main(["apply", str(plan), "-o", str(tmp_path / "small"), "--trust"])
    assert json.loads((tmp_path / "small" / "checkpoint.json").read_text())["metadata"]["base_dir"] == ".."


def test_without_a_recipe_it_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(with_sum(json.loads(path.read_text().replace('"recipe"', '"other"')))))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder)])
    assert ended.value.code == 2
    assert "holds no recipe, which says how its dense network is built" in capsys.readouterr().err
