"""Every byte of a file with a checksum is checked: one that changed is one line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import prunus
from factories_results import make_results
from prunus.errors import PlanError, PrunusError
from prunus.experiments.commands.folder import read_plan_folder, write_plan_folder
from prunus.experiments.recipe import Recipe
from prunus.exporters.header import FileMark
from prunus.exporters.program_archive import SUMS
from prunus.foundation.checksum import (
    NO_CHECKSUM,
    add_checksum,
    bytes_with_checksum,
    checksum_error,
    is_changed,
    with_sum,
)
from prunus.foundation.places import MANIFEST, listed_files
from prunus.plans import MASKS, Plan
from prunus.pruner.checkpoint import WITHOUT_CHECKSUM, read_state, write_state
from prunus.report.results import Results


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


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_a_checksum_is_of_the_content_not_of_its_form():
    content = with_sum({"b": [1, 2.5, {"ü": None}], "a": ("x",), "n": {3: 1}})
    again = json.loads(json.dumps(content, indent=3, sort_keys=True))
    assert not is_changed(again)
    assert not is_changed({key: value for key, value in again.items() if key != "sha256"})
    assert is_changed({**again, "a": ["y"]})
    assert is_changed({**again, "sha256": None})
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert is_changed({**deep, "sha256": "0"})


def test_an_edited_plan_is_read_and_named_and_a_damaged_one_refused(tmp_path):
    recipe = Recipe(version=1, model="digits", data="digits")
    plan = prunus.plan(net(), torch.ones(2, 4), budget={"params": 0.6})
    folder = write_plan_folder(tmp_path / "plan", plan, recipe, scores={}, weights=None)
    assert read_plan_folder(folder).edited == ()
    text = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(text))  # in another form
    assert read_plan_folder(folder).edited == ()
    axis = next(iter(text["axes"]))
    text["axes"][axis]["keep"] = "0-1"
    (folder / "plan.json").write_text(json.dumps(text))
    found = read_plan_folder(folder)
    assert found.edited == ("plan.json: not as prunus wrote it",)
    assert found.plan.axes[axis].sum() == 2
    assert Plan.load(folder).axes[axis].sum() == 2
    (folder / "plan.json").write_text(json.dumps(text)[:-9])
    with pytest.raises(PlanError, match="not JSON"):
        Plan.load(folder)


def test_an_edited_recipe_of_a_plan_folder_is_named(tmp_path):
    recipe = Recipe(version=1, model="digits", data="digits")
    folder = write_plan_folder(tmp_path / "plan", masked_plan(), recipe, scores={}, weights=None)
    path = folder / "recipe.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 3'))
    found = read_plan_folder(folder)
    assert (found.edited[0], found.recipe.seed) == ("recipe.json: not as prunus wrote it", 3)


def test_texts_of_before_there_were_checksums_are_read(tmp_path):
    outcome = prunus.prune(net(), torch.ones(2, 4), budget={"params": 0.6})
    folder = prunus.save(outcome, tmp_path / "small")
    header = json.loads((folder / "checkpoint.json").read_text())
    plan = json.loads((folder / "plan.json").read_text())
    del header["sha256"], plan["sha256"]
    (folder / "plan.json").write_text(json.dumps(plan))
    mark = FileMark.of(folder / "plan.json")
    header["files"]["plan.json"] = {"size_bytes": mark.size_bytes, "sha256": mark.sha256}
    (folder / "checkpoint.json").write_text(json.dumps(header))
    (folder / MANIFEST).unlink()
    assert torch.equal(prunus.load(folder, net())(torch.ones(1, 4)), outcome.model.eval()(torch.ones(1, 4)))
    prunus.save(outcome, folder)  # and such a folder is replaced
    assert listed_files(folder) == {"checkpoint.json", "plan.json", "weights.safetensors"}


def test_a_changed_header_is_refused(tmp_path):
    folder = prunus.save(prunus.prune(net(), torch.ones(2, 4), budget={"params": 0.6}), tmp_path / "small")
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace('"dtype": "float32"', '"dtype": "float33"'))
    with pytest.raises(PrunusError, match=r"checkpoint\.json was changed since prunus wrote it; copy"):
        prunus.load(folder, net())


def test_changed_results_are_refused(tmp_path):
    path = tmp_path / "results.json"
    make_results().save(path)
    Results.load(path)
    text = path.read_text()
    path.write_text(text.replace('"title": "', '"title": "x'))
    with pytest.raises(PrunusError, match=r"results\.json: was changed since prunus wrote it"):
        Results.load(path)
    path.write_text(json.dumps({key: value for key, value in json.loads(text).items() if key != "sha256"}))
    Results.load(path)


def test_every_entry_of_a_program_has_a_checksum(tmp_path):
    outcome = prunus.prune(net(), torch.ones(2, 4), budget={"params": 0.6})
    path = prunus.save(outcome, tmp_path / "small.pt2", example_inputs=torch.ones(2, 4))
    assert path.read_bytes() == prunus.save(outcome, tmp_path / "b.pt2", example_inputs=torch.ones(2, 4)).read_bytes()
    torch.export.load(path)  # torch reads it too
    old = tmp_path / "old.pt2"
    for changed, message in ((False, None), (True, "weight_0 was changed since prunus wrote it")):
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(old, "w") as new:
            for name in archive.namelist():
                data = bytearray(archive.read(name))
                if changed and name.endswith("weight_0"):
                    data[3] ^= 1
                if changed or not name.endswith(SUMS):
                    new.writestr(name, bytes(data))  # with the right sum of the archive
        if message is None:
            prunus.load(old)  # one that was written before there were checksums
        else:
            with pytest.raises(PrunusError, match=message):
                prunus.load(old)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(old, "w") as new:
        for name in archive.namelist():
            if not name.endswith("serialization_id"):
                new.writestr(name, archive.read(name))
    with pytest.raises(PrunusError, match=r"extra/checksums\.json is not of its entries"):
        prunus.load(old)


def test_a_checksum_joins_a_file_of_another_library(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.rand(3), "b": torch.ones(2, 2)}, path, {"format": "pt"})
    tensors = load_file(path)  # mapped from the file
    assert checksum_error(path) == NO_CHECKSUM
    add_checksum(path)
    assert checksum_error(path) == ""
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(path).items())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "changed" in checksum_error(path)
