"""Every byte of a file with a checksum is checked: one that changed is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import prunus
from prunus.errors import PlanError, PrunusError
from prunus.experiments.commands.folder import read_plan_folder, write_plan_folder
from prunus.experiments.recipe import Recipe
from prunus.foundation.checksum import bytes_with_checksum, checksum_error
from prunus.plans import MASKS, Plan
from prunus.pruner.checkpoint import WITHOUT_CHECKSUM, read_state, write_state


def flips(data: bytes, step: int = 1):
    for at in range(0, len(data), step):
        for bit in (0, 6):
            yield at, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def refusals(path: Path, read) -> int:
    whole, count = path.read_bytes(), 0
    for at, changed in flips(whole):
        path.write_bytes(changed)
        with pytest.raises(PrunusError) as caught:
            read(path)
        assert "\n" not in str(caught.value), at
        assert str(path.name) in str(caught.value), at
        count += 1
    path.write_bytes(whole)
    read(path)
    return count


def test_a_flipped_bit_of_a_training_checkpoint_is_one_line(tmp_path):
    path = write_state(tmp_path / "state", {"weights": torch.rand(5), "step": 3, "nest": ((1, 2), {4: "ü"})})
    assert refusals(path, read_state) > 500


def test_a_shortened_and_a_lengthened_file_are_one_line(tmp_path):
    path = write_state(tmp_path / "state", {"weights": torch.rand(5)})
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"\0", whole[:20], b"", b"\xff" * 40):
        path.write_bytes(data)
        with pytest.raises(PrunusError, match="checkpoint"):
            read_state(path)


def test_a_training_checkpoint_of_the_format_before_is_read(tmp_path):
    save_file(
        {"0": torch.ones(2)}, tmp_path / "state", {"format": WITHOUT_CHECKSUM, "state": '{"w": {"$tensor": "0"}}'}
    )
    assert read_state(tmp_path / "state")["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("state", ["[1]", '{"w": {"$tensor": "9"}}', '{"a": {"$pairs": 3}}', "[" * 100_000, "{"])
def test_a_file_with_a_checksum_with_another_content_is_one_line(tmp_path, state):
    (tmp_path / "state").write_bytes(bytes_with_checksum({}, {"format": "prunus-training/3", "state": state}))
    with pytest.raises(PrunusError, match="is damaged"):
        read_state(tmp_path / "state")


def masked_plan() -> Plan:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return prunus.plan(model, torch.ones(2, 4), budget={"params": 0.5}, levels=("weight",))


def test_a_flipped_bit_of_masks_is_one_line(tmp_path):
    plan = masked_plan()
    plan.save(tmp_path / "plan")
    assert refusals(tmp_path / "plan" / MASKS, lambda path: Plan.load(path.parent)) > 100


def test_masks_that_were_written_before_there_were_checksums_are_read(tmp_path):
    plan = masked_plan()
    plan.save(tmp_path / "plan")
    packed = {k: torch.from_numpy(np.packbits(m.reshape(-1))) for k, m in plan.masks.items()}
    save_file(packed, tmp_path / "plan" / MASKS)
    assert Plan.load(tmp_path / "plan") == plan
    assert checksum_error(tmp_path / "plan" / MASKS) == "it has no checksum"
    save_file(packed, tmp_path / "plan" / MASKS, {"note": "another"})
    with pytest.raises(PlanError, match="no checksum"):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize("name", ["scores.safetensors", "dense.safetensors"])
def test_a_flipped_bit_of_scores_and_weights_of_a_plan_folder_is_one_line(tmp_path, name):
    recipe = Recipe(version=1, model="digits", data="digits")
    write_plan_folder(
        tmp_path / "plan", masked_plan(), recipe, scores={"a": np.ones(3)}, weights={"w": torch.rand(2, 3)}
    )
    assert refusals(tmp_path / "plan" / name, lambda path: read_plan_folder(path.parent)) > 100
