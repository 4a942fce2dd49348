"""A plan or checkpoint folder made by someone else runs no code and opens no other file before it is trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.cli.main import main
from prunus.errors import UsageError
from prunus.experiments.commands import read_plan_folder
from prunus.experiments.commands.trust import needed_trust
from prunus.experiments.commands.verifying import verify_folder
from prunus.experiments.recipe import Recipe
from prunus.foundation.progress import Silent

CODE = """
open("RAN", "w")
from torch import nn


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
"""
OWN = {"version": 1, "model": "evil.py:net", "data": "noise", "data_args": {"input_shape": "2,8"}}
BUILT_IN = {"version": 1, "model": "digits", "data": "digits"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan folder whose recipe leads to a file beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(CODE)
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    prunus.prune(net, torch.randn(2, 8), budget={"params": 0.5}).plan.save(tmp_path / "plan")
    return described(tmp_path / "plan", OWN)


def described(folder: Path, recipe: Mapping[str, Any], base_dir: str = "..") -> Path:
    (folder / "recipe.json").write_text(json.dumps({"base_dir": base_dir, "weights": None, "recipe": recipe}))
    return folder


@pytest.mark.parametrize("command", ["apply", "report", "plan"])
def test_no_command_runs_what_a_plan_folder_names(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, str(folder), "-o", str(folder.parent / "out")])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "plan needs the code 'evil.py:net' for its model, which would be run" in told
    assert "give --trust" in told
    assert not (folder.parent / "RAN").exists()


def test_a_trusted_folder_is_read_as_it_was_written(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"evil\.py:net"):
        read_plan_folder(folder)
    assert read_plan_folder(folder, trust=True).recipe.base_dir.resolve() == folder.parent
    with pytest.raises(SystemExit) as ended:
        main(["apply", str(folder), "-o", str(folder.parent / "out"), "--trust"])
    assert ended.value.code == 0
    assert (folder.parent / "RAN").exists()
    assert (folder.parent / "out" / "weights.safetensors").is_file()


def test_a_checkpoint_is_verified_without_its_code_or_not_at_all(tmp_path: Path, folder: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    found = prunus.prune(net, torch.randn(2, 8), budget={"params": 0.5})
    saved = found.save(tmp_path / "small", metadata={"recipe": OWN})
    with pytest.raises(UsageError, match=r"needs the code 'evil\.py:net' for its model"):
        verify_folder(saved, Silent(), base_dir=tmp_path)
    assert not (tmp_path / "RAN").exists()
    assert verify_folder(saved, Silent(), base_dir=tmp_path, trust=True).ok


def test_built_in_models_need_no_trust_and_lead_nowhere(folder: Path) -> None:
    found = read_plan_folder(described(folder, BUILT_IN, "../../../etc"))
    assert found.recipe.base_dir == folder


@pytest.mark.parametrize(
    ("recipe", "need"),
    [
        ({"model": "os:system", "model_args": {"command": "true"}}, "the code 'os:system' for its model"),
        ({"model": "torch.nn:Linear"}, "the code 'torch.nn:Linear'"),
        ({"model": "nothing"}, "the code 'nothing'"),
        ({"data": "evil.py:data"}, "the code 'evil.py:data' for its data"),
        ({"data": "imagefolder:/etc"}, "the files 'imagefolder:/etc'"),
        ({"checkpoint": "/etc/passwd"}, "the file '/etc/passwd'"),
        ({"model": "hf:../model"}, "the model folder '../model'"),
        ({"model": "hf:inside"}, "the model folder 'inside'"),
        ({"model": "hf:a/b", "model_args": {"trust_remote_code": True}}, "'trust_remote_code: True'"),
        ({"model": "hf:a/b", "model_args": {"trust_remote_code": 1}}, "'trust_remote_code: 1'"),
        ({"model": "hf:a/b", "model_args": {"attn_implementation": "me/kernel"}}, "'attn_implementation: me/kernel'"),
        ({"model": "hf:a/b", "model_args": {"use_kernels": True}}, "'use_kernels: True'"),
        ({"model": "timm:resnet18", "model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path: /etc"),
        ({"model": "timm:resnet18", "model_args": {"pretrained_cfg": {"file": "x"}}}, '"pretrained_cfg: '),
    ],
)
def test_what_needs_trust_is_named(recipe: dict[str, Any], need: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    assert need in str(needed_trust(Recipe(**{**BUILT_IN, **recipe}), tmp_path))


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"data": "noise"},
        {"model": "glyphs/resnet"},
        {"model": "torchvision:resnet18", "model_args": {"weights": "DEFAULT", "num_classes": 10}},
        {"model": "timm:resnet18", "model_args": {"pretrained": True, "act_layer": "silu"}},
        {"model": "hf:bert-base-uncased", "model_args": {"num_labels": 3, "attn_implementation": "eager"}},
        {"model": "hf:org/name", "model_args": {"auto_class": "AutoModelForCausalLM"}},
    ],
)
def test_libraries_need_none(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert needed_trust(Recipe(**{**BUILT_IN, **recipe}), tmp_path) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"base_dir": 1, "recipe": {}}', "cannot be read"),
        ('{"base_dir": "..", "base_dir": "/", "recipe": {}}', "occurs twice"),
        ("9" * 5000, "too many digits"),
        (" " * 2_000_000, "more than 1,048,576 bytes"),
        ("\ud800", "is no UTF-8 text"),
    ],
)
def test_a_damaged_recipe_is_refused_in_one_line(folder: Path, text: str, match: str) -> None:
    (folder / "recipe.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match=match) as caught:
        read_plan_folder(folder)
    assert "\n" not in str(caught.value)
