"""``prunus verify FOLDER``: the proof again, the table of calls, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.cli.main import main

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


def test_without_a_recipe_it_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace('"recipe"', '"other"'))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder)])
    assert ended.value.code == 2
    assert "holds no recipe, which says how its dense network is built" in capsys.readouterr().err
