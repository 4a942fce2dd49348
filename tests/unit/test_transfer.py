"""Transfer: a pretrained network, dense or pruned, guides what goes in another of its architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import prunus
from factories_training import blocks, fit, samples
from prunus.cli.main import app
from prunus.errors import ModelError, OptionError, PrunusError, RecipeError
from prunus.experiments.commands import prune_recipe
from prunus.experiments.commands.trust import needed_trust
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.exporters.source_network import match_source, read_source
from prunus.foundation.progress import Silent
from prunus.methods.transfer import Transfer, with_weights
from prunus.pruner import Pruner

DATA = samples()
EXAMPLE = DATA.inputs[:4]


def with_head(classes: int, seed: int = 5) -> nn.Sequential:
    """Return a network of the same body with another head."""
    model = blocks(seed)
    model[5] = nn.Linear(10, classes)
    return model


def pruned_by(budget: dict[str, float], **options: Any) -> prunus.Outcome:
    return prunus.prune(blocks(), EXAMPLE, budget=budget, **options)


def kept_units(plan: Any) -> dict[str, list[int]]:
    return {axis: np.flatnonzero(mask).tolist() for axis, mask in plan.axes.items() if not mask.all()}


def test_the_structure_of_a_pruned_network_is_the_plan_at_its_own_budget(tmp_path: Path) -> None:
    source = pruned_by({"params": 0.5}, allocator="global", criterion="magnitude")
    source.save(tmp_path / "small")
    found = prunus.plan(
        blocks(3),
        EXAMPLE,
        budget={"params": source.after.params},
        method="transfer",
        transfer={"from": tmp_path / "small"},
    )
    assert kept_units(found) == kept_units(source.plan)
    assert found.after == source.after
    other = prunus.plan(
        blocks(3), EXAMPLE, budget={"params": source.after.params}, method="transfer", transfer={"from": source}
    )
    assert kept_units(other) == kept_units(source.plan)


def test_another_head_is_named_and_the_body_is_as_in_the_source(tmp_path: Path) -> None:
    source = pruned_by({"params": 0.5}, allocator="global", criterion="magnitude")
    source.save(tmp_path / "small")
    model = with_head(7)
    spent = source.after.params + 3 * (source.model[5].in_features + 1)
    made = prunus.prune(
        model,
        EXAMPLE,
        budget={"params": spent},
        method="transfer",
        transfer={"from": tmp_path / "small"},
    )
    assert made.plan.settings["transfer"]["unmatched"] == ["5.weight", "5.bias"]
    assert "not in small, or of another shape: 5.weight, 5.bias" in made.notes
    assert kept_units(made.plan) == kept_units(source.plan)


def test_masks_of_the_source_are_the_masks_here() -> None:
    source = pruned_by({"params": 0.4}, levels=("weight",))
    model = blocks(3)
    found = prunus.plan(model, EXAMPLE, budget={"params": 0.4}, method="transfer", transfer={"from": source.model})
    assert found.masks.keys() == source.plan.masks.keys()
    for name, mask in source.plan.masks.items():
        assert np.array_equal(found.masks[name], mask), name
    tighter = prunus.plan(model, EXAMPLE, budget={"params": 0.3}, method="transfer", transfer={"from": source.model})
    assert all(not (mask & ~found.masks.get(name, True)).any() for name, mask in tighter.masks.items())


def test_a_dropped_branch_of_the_source_is_dropped_here(tmp_path: Path) -> None:
    source = pruned_by({"params": 0.72}, method="depth", data=[(DATA.inputs, DATA.targets)], repair=None)
    assert len(source.plan.drops) == 1
    source.save(tmp_path / "small")
    found = prunus.plan(
        blocks(3),
        EXAMPLE,
        budget={"params": source.after.params},
        method="transfer",
        transfer={"from": str(tmp_path / "small")},
    )
    assert [drop.label for drop in found.drops] == [drop.label for drop in source.plan.drops]
    assert found.after.params == source.after.params


def test_a_dense_source_ranks_by_its_own_norms(tmp_path: Path) -> None:
    source = blocks(9)
    with torch.no_grad():
        for i in (2, 3, 4):
            source[i].up.weight[:6] *= 10
    save_file(source.state_dict(), tmp_path / "dense.safetensors")
    found = prunus.plan(
        with_head(4),
        EXAMPLE,
        budget={"params": 0.6},
        method="transfer",
        transfer={"from": tmp_path / "dense.safetensors"},
        bounds={"0": {"frozen": True}},
    )
    ups = {axis: units for axis, units in kept_units(found).items() if axis.endswith("up:out")}
    assert ups
    assert all(set(units) <= set(range(6)) or set(range(6)) <= set(units) for units in ups.values())


def test_weights_are_copied_where_the_source_has_them_and_nowhere_else() -> None:
    source, model = blocks(9), with_head(7)
    source.train()
    source(DATA.inputs)  # moves the norm statistics
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed, match = with_weights(model, Transfer.of({"from": source, "weights": "copy"}))
    assert match.unmatched == ("5.weight", "5.bias")
    for name, value in changed.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("5.") else source.state_dict()[name]), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copied_weights_are_what_is_pruned_and_the_argument_stays(tmp_path: Path) -> None:
    source, model = blocks(9), blocks(3)
    save_file(source.state_dict(), tmp_path / "dense.safetensors")
    copied = {"from": tmp_path / "dense.safetensors", "weights": "copy"}
    before = model[0].weight.detach().clone()
    made = prunus.prune(model, EXAMPLE, budget={"params": 0.5}, criterion="magnitude", transfer=copied)
    direct = prunus.prune(source, EXAMPLE, budget={"params": 0.5}, criterion="magnitude")
    assert kept_units(made.plan) == kept_units(direct.plan)
    assert torch.equal(made.model[0].weight, direct.model[0].weight)
    assert torch.equal(model[0].weight, before)
    assert made.notes[0].startswith("transfer from dense.safetensors: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "transfer"}, "method 'transfer' needs a source"),
        ({"transfer": {"from": blocks()}}, "transfer guides method 'transfer' alone, and the method is 'units'"),
        ({"method": "transfer", "transfer": {"form": 1}}, "no key 'form'. Did you mean 'from'"),
        ({"method": "transfer", "transfer": {"weights": "copy"}}, "transfer has no source"),
        ({"method": "transfer", "transfer": {"from": blocks(), "weights": "clone"}}, "weights is 'clone'"),
        ({"method": "transfer", "transfer": "small"}, "transfer is 'small'; allowed: a mapping"),
        ({"method": "transfer", "transfer": {"from": 3}}, "transfer.from is 3"),
        ({"method": "transfer", "transfer": {"from": "nowhere"}}, "'nowhere': no such file or folder"),
        ({"method": "transfer", "transfer": {"from": nn.Linear(3, 5)}}, "no weight of Sequential has one of its name"),
    ],
)
def test_a_transfer_that_cannot_be_is_refused_in_a_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PrunusError, match=words) as caught:
        prunus.plan(blocks(), EXAMPLE, budget={"params": 0.5}, **options)
    assert "\n" not in str(caught.value)


def test_a_file_is_data(tmp_path: Path) -> None:
    torch.save(blocks(), tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"the ending '.pt' is unknown"):
        read_source(tmp_path / "model.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="cannot be read"):
        read_source(tmp_path / "bad.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is no checkpoint"):
        read_source(tmp_path / "empty")
    wrapped = {f"module.{name}": value for name, value in blocks().state_dict().items()}
    assert match_source(read_source(wrapped), blocks()).unmatched == ()


CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(10, 12), nn.Linear(12, 10)
    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))

def build(classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), Block(), Block(), nn.Linear(10, classes))

def loaders():
    generator = torch.Generator().manual_seed(5)
    def split(count):
        x = torch.randn(count, 8, generator=generator)
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return {"train": split(128), "calibration": split(64), "selection": split(48), "test": split(64)}
"""

RECIPE = """version: 1
model: nets.py:build
model_args: {classes: 3, seed: 2}
data: nets.py:loaders
transfer: {from: dense.safetensors, weights: copy}
prune: {method: METHOD, budget: {params: 0.4}}
recover: {steps: 40, lr: 0.01}
compare: {latency: {rounds: 1, batch: 4}}
"""


def recipe(folder: Path, method: str, **changes: str) -> Any:
    (folder / "nets.py").write_text(CODE)
    scope: dict[str, Any] = {}
    exec(CODE, scope)
    save_file(scope["build"]().state_dict(), folder / "dense.safetensors")
    text = RECIPE.replace("METHOD", method)
    for old, new in changes.items():
        text = text.replace(old, new)
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize("method", ["incremental", "units-incremental", "transfer"])
def test_one_recipe_prunes_a_pretrained_network_with_a_new_head_while_it_learns(method: str, tmp_path: Path) -> None:
    made = prune_recipe(recipe(tmp_path, method), tmp_path / "out", Silent())
    row = made.results.rows[0] if hasattr(made.results, "rows") else made.results.runs[0]
    assert row.accuracy > 0.5
    assert any("4.weight, 4.bias" in note for note in row.notes)
    if method != "transfer":
        assert row.notes[-1].startswith("pruned while training: the 40 steps of recover were spent there")
        assert row.accuracy == row.accuracy_before_recovery
    assert row.kept_actual <= 0.41


def test_a_method_that_trains_takes_the_steps_of_recover_at_the_python_door_too() -> None:
    batches = [(DATA.inputs[i : i + 32], DATA.targets[i : i + 32]) for i in range(0, 128, 32)]
    options = {"budget": {"params": 0.4}, "data": batches, "method": "gradient-threshold-moving"}
    model = blocks()
    made = prunus.prune(model, EXAMPLE, recover={"steps": 20, "lr": 0.01, "method": "finetune"}, **options)
    assert made.recovery is None
    assert made.repair is None
    assert not torch.equal(made.model[5].bias, model[5].bias)
    distilled = prunus.prune(model, EXAMPLE, recover={"steps": 20, "lr": 0.01, "method": "distil"}, **options)
    assert not torch.equal(distilled.model[5].bias, made.model[5].bias)
    with pytest.raises(OptionError, match=r"recover.method is 'blocks'"):
        prunus.prune(model, EXAMPLE, recover={"steps": 20, "method": "blocks"}, **options)


def test_a_recipe_names_line_and_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml:5: transfer: .*no key 'form'"):
        recipe(tmp_path, "transfer", **{"{from:": "{form:"})
    with pytest.raises(RecipeError, match=r"recipe.yaml:5: transfer: .*weights is 'clone'"):
        recipe(tmp_path, "transfer", **{"copy": "clone"})
    missing = recipe(tmp_path, "transfer", **{"dense.safe": "dence.safe"})
    with pytest.raises(ModelError, match=r"Did you mean 'dense.safetensors'"):
        prune_recipe(missing, None, Silent())


def test_the_command_line_takes_the_source_and_the_settings_of_a_method(tmp_path: Path) -> None:
    recipe(tmp_path, "transfer", **{"transfer: {from: dense.safetensors, weights: copy}\n": ""})
    place = str(tmp_path / "recipe.yaml")

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["prune", place, "-o", str(tmp_path / "out"), *words])

    plain = run()
    assert plain.exit_code != 0
    assert isinstance(plain.exception, OptionError) or "needs a source" in plain.output
    done = run("--transfer", "from=dense.safetensors", "--transfer", "weights=copy")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "plan.json").read_text())["settings"]
    assert settings["transfer"]["unmatched"] == ["4.weight", "4.bias"]
    words = ["--method", "gradient-threshold-moving", "--method-option", "decay=0.5", "--method-option", "per=part"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "plan.json").read_text())["settings"]
    assert settings["method_options"] == {"decay": 0.5, "per": "part"}
    wrong = run("--method", "gradient-threshold-moving", "--method-option", "decoy=0.5")
    assert wrong.exit_code != 0
    assert "no setting 'decoy'. Did you mean 'decay'" in str(wrong.exception) + wrong.output


def test_a_folder_of_someone_else_does_not_lead_to_a_source(tmp_path: Path) -> None:
    found = Recipe(version=1, model="digits", data="digits", transfer={"from": "/etc/secret.safetensors"})
    assert needed_trust(found, tmp_path) == "the file '/etc/secret.safetensors' from which its model is transferred"


def test_masks_of_another_network_can_hold_from_the_beginning_of_a_training() -> None:
    model, mask = blocks(), torch.rand(10, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    pruner = Pruner(model, {"kept": 0.5}, masks={"0.weight": mask})
    before = int(mask.sum())
    fit(model, pruner, torch.optim.SGD(model.parameters(), lr=0.1), 10)
    assert not bool((pruner.masks["0.weight"] & ~mask).any())
    assert int(pruner.masks["0.weight"].sum()) <= before
    for given, words in (({"0.bias": torch.ones(10).bool()}, "not prunable"), ({"0.weight": mask[:2]}, "0.weight")):
        with pytest.raises(OptionError, match=words):
            Pruner(blocks(), {"kept": 0.5}, masks=given)
    with pytest.raises(OptionError, match="removes units or branches; allowed there: none"):
        Pruner(blocks(), {"kept": 0.5, "method": "units"}, example_inputs=EXAMPLE, masks={"0.weight": mask})
