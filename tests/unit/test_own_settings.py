"""Settings that modules share: a module whose entry was mended reads all others from the shared object still."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.graph.own_settings import entries, is_view, parts_of, view_of


@dataclass
class NetConfig:
    width: int = 24
    heads: int = 4
    scale: float = 1.0

    def doubled(self) -> float:
        return 2 * self.scale


class Attention(nn.Module):
    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.q, self.k, self.v, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (m(x).view(b, t, self.config.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y * self.config.scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = NetConfig()
        self.stem, self.layers = nn.Linear(10, 24), nn.ModuleList(Attention(self.config) for _ in range(2))
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for layer in self.layers:
            x = x + layer(x)
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def cut() -> prunus.Outcome:
    torch.manual_seed(0)
    return prunus.prune(Net().eval(), torch.randn(2, 5, 10), budget={"params": 0.5})


def test_what_is_set_after_a_cut_reaches_every_module(cut: prunus.Outcome) -> None:
    model, x = cut.model, torch.randn(2, 5, 10)
    own = [layer.config for layer in model.layers]
    assert any(is_view(config) for config in own)
    assert all(config.heads < 4 for config in own)
    assert model.config.heads == 4
    before = model(x)
    model.config.scale = 0.0
    assert [config.scale for config in own] == [0.0, 0.0]
    assert not torch.equal(model(x), before)
    own[0].scale = 1.0  # and the other way round, as of one object
    assert model.config.scale == 1.0
    assert torch.equal(model(x), before)


def test_a_view_is_an_object_of_its_class(cut: prunus.Outcome) -> None:
    config = next(layer.config for layer in cut.model.layers if is_view(layer.config))
    assert isinstance(config, NetConfig)
    assert config.doubled() == 2.0
    assert entries(config) == {"width": 24, "heads": config.heads, "scale": 1.0}
    config.heads = 1
    assert (config.heads, cut.model.config.heads) == (1, 4)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_and_files_keep_what_is_shared_and_what_is_own(cut: prunus.Outcome, way: str) -> None:
    if way == "deepcopy":
        again = copy.deepcopy(cut.model)
    elif way == "pickle":
        again = pickle.loads(pickle.dumps(cut.model))
    else:
        file = io.BytesIO()
        torch.save(cut.model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    assert [layer.config.heads for layer in again.layers] == [layer.config.heads for layer in cut.model.layers]
    again.config.scale = 0.5
    assert [layer.config.scale for layer in again.layers] == [0.5, 0.5]
    assert cut.model.layers[0].config.scale == 1.0


def test_loading_undoing_and_a_second_cut(cut: prunus.Outcome, tmp_path: Path) -> None:
    x = torch.randn(2, 5, 10)
    cut.save(tmp_path / "cut")
    again = prunus.load(tmp_path / "cut", Net())
    again.config.scale = cut.model.config.scale = 0.25
    assert torch.equal(again.eval()(x), cut.model.eval()(x))
    whole = prunus.undo(cut)
    assert [layer.config is whole.config for layer in whole.layers] == [True, True]
    less = prunus.prune(cut.model, x, budget={"params": 0.5})
    assert less.surgery.spliced == ()
    assert {m.name for m in less.surgery.mended} == {"config.heads"}
    assert less.model(x).shape == (2, 5, 3)


def test_settings_of_one_module_alone_are_its_own_copy() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 24), Attention(NetConfig()), nn.Linear(24, 3)).eval()
    config = net[1].config
    found = prunus.prune(net, torch.randn(2, 5, 10), budget={"params": 0.5})
    assert not is_view(found.model[1].config)
    assert config.heads == 4


def test_a_view_of_a_view() -> None:
    base = NetConfig()
    inner = view_of(base, {"heads": 2})
    outer = view_of(inner, {"width": 12})
    assert entries(outer) == {"width": 12, "heads": 2, "scale": 1.0}
    assert parts_of(outer)[0] is inner
    assert copy.copy(outer).heads == 2
