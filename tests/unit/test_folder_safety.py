"""Folders made by someone else: names out of closed lists, no import, no other file, no large tensor."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.data.sources import Split
from prunus.errors import ModelError, OptionError, PlanError
from prunus.exporters.own_folder import check_folder
from prunus.exporters.pack import read_tensors
from prunus.exporters.spec_json import decode_spec, safe_treespec
from prunus.exporters.value_json import Objects, decode_value
from prunus.plans import Plan
from prunus.pruner import Pruner
from prunus.pruner.checkpoint import read_state, write_state
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.training import TrainingOptions


@pytest.mark.parametrize(
    "context",
    [
        '[{"__enum__": true, "fqn": "antigravity:X", "name": "a"}]',
        '[{"__en\\u0075m__": true, "fqn": "antigravity:X", "name": "a"}]',
        '{"a": [[{"\\u005f_enum__": 1, "fqn": "antigravity:X"}]]}',
    ],
)
@pytest.mark.parametrize("kind", ["collections.OrderedDict", "builtins.list", "collections.deque"])
def test_an_enumeration_is_found_however_it_is_written(kind: str, context: str) -> None:
    with pytest.raises(ValueError, match="names an enumeration"):
        decode_spec({"registered": ["*"], "type": kind, "context": context})
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    with pytest.raises(ValueError, match="names an enumeration"):
        safe_treespec(json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}]))
    assert "antigravity" not in sys.modules


def test_a_named_tuple_is_looked_up_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lazy module imports what it is asked for, so it is not asked."""

    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "lazy_for_test", Lazy("lazy_for_test"))
    with pytest.raises(ModelError, match="import its module before loading"):
        decode_spec({"namedtuple": [], "class": "lazy_for_test:Pair"})


@pytest.mark.parametrize(
    "value",
    [{"dtype": "load"}, {"dtype": "hub"}, {"layout": "float32"}, {"device": "privateuseone"}, {"device": "cpu:9999"}],
)
def test_names_of_torch_come_out_of_a_list(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str) -> Any:
        raise AssertionError(f"torch was asked for {name}")

    monkeypatch.setattr(torch, "__getattr__", asked, raising=False)
    with pytest.raises(ValueError, match=r"torch has no|no device"):
        decode_value(value, Objects())
    assert decode_value({"dtype": "float32"}, Objects()) is torch.float32
    assert decode_value({"device": "cuda:1"}, Objects()) == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"_attn_implementation": "me/kernel"}, "may be code of the hub"),
        ({"attn_implementation": {"text_config": "me/kernel"}}, "may be code of the hub"),
        ({"text_config": {"_attn_implementation_internal": "me/kernel"}}, "may be code of the hub"),
        ({"_experts_implementation": "me/kernel"}, "may be code of the hub"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised layers of another package"),
    ],
)
def test_a_config_never_fetches_code(config: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        check_folder(tmp_path, config)
    assert "\n" not in str(caught.value)


def test_sound_configs_pass(tmp_path: Path) -> None:
    check_folder(tmp_path, {"_attn_implementation": "sdpa", "text_config": {"attn_implementation": None}})


def test_shards_and_adapters_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(ModelError, match="only files of its own folder"):
        check_folder(tmp_path, {})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_folder(tmp_path, {})
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter for another network"):
        check_folder(tmp_path, {})


@pytest.mark.parametrize("shapes", ['{"a": "xx"}', '{"a": [-1, 5]}', '{"a": [1.5]}', "[]", '{"a": [1], "a": [2]}', "{"])
def test_packed_shapes_are_checked_before_they_are_used(shapes: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {"a|bitmap": torch.zeros(1).byte(), "a|values": torch.zeros(0)}, tmp_path / "w", {"prunus_shapes": shapes}
    )
    with pytest.raises(ModelError, match="cannot be read") as caught:
        read_tensors(tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_many_axes_together_have_a_limit(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = prunus.prune(net, torch.randn(2, 4), budget={"params": 0.6}).plan
    text = plan.describe()
    for key, part in (("axes", {"size": 2**25, "keep": ""}), ("tensors", {"0": f"0-{2**25}"})):
        many = {**text, key: {f"a{i}": part for i in range(64)}}
        with pytest.raises(PlanError, match=r"names 2,147,.* units in all; allowed: 67,108,864"):
            Plan.from_description(many, {})
    assert Plan.from_description(text, {}) == plan
    assert isinstance(plan.axes[next(iter(plan.axes))], np.ndarray)


def test_a_long_header_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.exporters.header.LONGEST_TEXT", 100)
    (tmp_path / "checkpoint.json").write_text('{"format": "' + "x" * 200)
    with pytest.raises(ModelError, match="has more than 100 bytes"):
        prunus.load(tmp_path, nn.Linear(2, 2))


def test_a_recipe_never_fetches_code_either(tmp_path: Path) -> None:
    from prunus.experiments.sources import resolve_model

    (tmp_path / "config.json").write_text(json.dumps({"_attn_implementation": "me/kernel"}))
    with pytest.raises(ModelError, match="may be code of the hub"):
        resolve_model("hf:.", base_dir=tmp_path)


TRAINING = TrainingOptions(steps=4, lr=0.01, batch_size=8, optimizer="adamw")


def trained(path: Path) -> nn.Module:
    """Train, or go on from the checkpoint that is there."""
    torch.manual_seed(0)
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    pruner = Pruner(model, {"kept": 0.5, "method": "gradual", "every": 2}, example_inputs=inputs[:2])
    data = Split(inputs, (inputs[:, 0] > 0).long(), "train")
    before = [p.detach().clone() for p in model.parameters()]
    try:
        train_pruning_(model, data, TRAINING, pruner=pruner, seed=1, checkpoints=Checkpoints(path, every=3))
    except OptionError:
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        raise
    return model


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s["model"].pop("0.weight"), "other weights than the model"),
        (lambda s: s["model"].update({"0.weight": torch.zeros(6)}), "other weights than the model"),
        (lambda s: s.update(order=(10**12, 10**12)), "no pair of counts"),
        (lambda s: s.update(order=(0, 10**6)), "more batches than steps"),
        (lambda s: s.update(losses=["a"]), "no finite numbers"),
        (lambda s: s["optimizer"]["param_groups"][0].update(lr="fast"), "other settings"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "another shape than the weight"),
        (lambda s: s["optimizer"]["state"].update({99: {}}), "is damaged: IndexError"),
        (lambda s: s["random"][0].update(torch=torch.zeros(3)), "is damaged: "),
        (lambda s: s["random"][0].update(numpy=("MT19937", [10**30], 1, 0, 0.0)), "is damaged: OverflowError"),
        (lambda s: s["pruner"].pop("strategy"), "is damaged: KeyError"),
        (lambda s: s["identity"].update(seed=torch.zeros(3)), "belongs to another training: seed is"),
        (lambda s: s.pop("identity"), "does not say whose it is"),
    ],
)
def test_a_made_up_training_checkpoint_is_refused(change: Callable[[Any], Any], match: str, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    trained(path)
    state = read_state(path)
    change(state)
    write_state(path, state)
    with pytest.raises(OptionError, match=match) as caught:
        trained(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 10_000, "9" * 5000, "[]", '{"$tensor": "7"}', '{"a": {"$pairs": [[{}, 1]]}}'])
def test_a_state_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, tmp_path / "state", {"format": "prunus-training/2", "state": text})
    with pytest.raises(OptionError, match="is damaged") as caught:
        read_state(tmp_path / "state")
    assert "\n" not in str(caught.value)
