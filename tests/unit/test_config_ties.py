"""`config_ties` in a `Pruner` and in `shrink`: the config alone describes the network that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from factories_transformers import build
from prunus.errors import ModelError, OptionError
from prunus.exporters import NeedsPrunusWarning
from prunus.exporters.config_proof import outputs


def same(one: nn.Module, other: nn.Module, inputs: Any) -> bool:
    return all(map(torch.equal, outputs(one, inputs), outputs(other, inputs)))


def trained(model: nn.Module, inputs: dict[str, Any], **options: Any) -> prunus.Pruner:
    """Return the pruner after four steps, in the last of which the network was cut."""
    pruner = prunus.Pruner(
        model, {"kept": 0.6, "method": "units", "cut": "final", "allocator": "global", **options}, example_inputs=inputs
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pruner.attached(optimizer, total_steps=4):
        for _ in range(4):
            model(**inputs).logits.pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return pruner


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_pruner_cuts_to_what_the_config_describes(kind: str, tmp_path: Path) -> None:
    model, inputs = build(kind)
    before = sum(p.numel() for p in model.parameters())
    pruner = trained(model, inputs, config_ties=True)
    assert sum(p.numel() for p in model.parameters()) <= 0.6 * before
    model.save_pretrained(tmp_path / "plain")  # type: ignore[operator]
    assert same(type(model).from_pretrained(tmp_path / "plain"), model, inputs)  # type: ignore[attr-defined]
    folder = prunus.save(pruner.outcomes[0], tmp_path / "small", format="huggingface")
    assert same(type(model).from_pretrained(folder), model, inputs)  # type: ignore[attr-defined]
    again = trained(model, inputs, config_ties=True, kept=0.8)  # from the cut network, whose config is its own
    again.model.save_pretrained(tmp_path / "again")  # type: ignore[operator]
    assert same(type(model).from_pretrained(tmp_path / "again"), again.model, inputs)  # type: ignore[attr-defined]


def test_shrink_removes_what_every_layer_can_lose(tmp_path: Path) -> None:
    model, inputs = build("bert")
    layers = model.bert.encoder.layer  # type: ignore[union-attr]
    with torch.no_grad():
        for layer, dead in zip(layers, (20, 12), strict=True):  # type: ignore[arg-type]
            layer.intermediate.dense.weight[:dead] = 0  # type: ignore[union-attr]
            layer.intermediate.dense.bias[:dead] = 0  # type: ignore[union-attr]
    loose, tied = prunus.shrink(model, inputs), prunus.shrink(model, inputs, config_ties=True)
    assert sorted(int(m.sum()) for m in loose.plan.axes.values() if not m.all()) == [20, 28]
    assert [int(m.sum()) for m in tied.plan.axes.values() if not m.all()] == [28, 28]
    assert tied.plan.settings["config_ties"] is True
    with pytest.warns(NeedsPrunusWarning):
        prunus.save(loose, tmp_path / "loose", format="huggingface")
    folder = prunus.save(tied, tmp_path / "tied", format="huggingface")
    assert same(type(model).from_pretrained(folder), tied.model, inputs)  # type: ignore[attr-defined]


def test_bad_uses_are_one_line() -> None:
    net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3)
    with pytest.raises(OptionError, match="config_ties is 'yes'; allowed: True or False"):
        prunus.PrunerOptions(0.5, config_ties="yes")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Sequential is no transformers model with a config"):
        prunus.Pruner(net, {"kept": 0.5, "method": "units", "config_ties": True}, example_inputs=x)
    with pytest.raises(ModelError, match="Sequential is no transformers model with a config"):
        prunus.shrink(net, x, config_ties=True)
    with pytest.raises(OptionError, match="config_ties is on, but method 'gradual' masks weights only"):
        prunus.Pruner(net, {"kept": 0.5, "config_ties": True})


def test_states_that_do_not_name_the_option_go_on() -> None:
    assert "config_ties" not in prunus.PrunerOptions(0.5).describe()
    assert prunus.PrunerOptions(0.5, method="units", config_ties=True).describe()["config_ties"] is True
