"""Tensors that only training reads, or that are computed with for nothing, follow the axes on which they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from factories_own_forward import keep_forward, terms_of
from prunus.analysis.score import make_plan
from prunus.cost.price import cost_model
from prunus.experiments.sources.vision_ops import import_torchvision
from prunus.exporters.checkpoint import save
from prunus.exporters.restore import load
from prunus.exporters.undo import undo
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.cut import cut_with_record
from prunus.surgery.keeping.other_programs import training_terms


class Auxiliary(nn.Module):
    """A second head, with a norm, that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3), nn.Linear(8, 4)
        self.norm, self.aux = nn.BatchNorm2d(12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.stem(x))
        out = self.head(self.body(h).relu().mean((2, 3)))
        return (out, self.aux(self.norm(h).mean((2, 3)))) if self.training else out


def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 9, 9)


def test_a_head_for_training_loses_the_units_of_its_layer(tmp_path: Any) -> None:
    model = Auxiliary()
    done = keep_forward(model, (images(),))
    small = done.model
    assert (small.stem.out_channels, small.norm.num_features, small.aux.in_features) == (6, 6, 6)
    kept = torch.from_numpy(np.flatnonzero(done.plan.axes["stem:out"]))
    torch.testing.assert_close(small.aux.weight, model.aux.weight[:, kept], rtol=0, atol=0)
    torch.testing.assert_close(small.norm.running_var, model.norm.running_var[kept], rtol=0, atol=0)
    assert sum(p.numel() for p in small.parameters()) == done.plan.after.params
    for out in small.train()(images()):
        assert out.shape == (2, 4)
    save(done, tmp_path / "small")
    again = load(tmp_path / "small", Auxiliary())
    torch.testing.assert_close(again.aux.weight, small.aux.weight, rtol=0, atol=0)
    torch.testing.assert_close(undo(small, done.plan, model).aux.weight, model.aux.weight)


def test_terms_that_are_laid_on_later_cut_the_followers_too() -> None:
    model, x = Auxiliary().eval(), (images(),)
    coupling, own = terms_of(model, x)
    bare = make_plan(coupling, {"stem:out": np.arange(12) < 5})
    small, _ = cut_with_record(model, coupling, bare, x, forward="keep")
    assert small.aux.in_features == 5
    followed = own.on(coupling)
    assert followed.coverage() > coupling.coverage()
    assert cost_model(followed).price() == cost_model(coupling).price()
    unused = {(f.tensor, f.dim) for f in followed.frozen if f.reason == "unused"}
    assert unused == {("aux.weight", 0), ("aux.bias", 0)}


def test_layers_that_run_for_nothing_follow() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.idle, self.head = nn.Linear(10, 12), nn.Linear(12, 7), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x).relu()
            self.idle(h)
            return self.head(h)

    done = keep_forward(Idle(), (torch.randn(2, 10),))
    assert done.model.idle.in_features == done.model.stem.out_features == 6
    assert not done.own.frozen


def test_a_tensor_that_both_programs_read_in_two_ways_stays_whole() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.other, self.head = nn.Linear(10, 12), nn.Linear(10, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x).relu()
            if self.training:
                h = h + self.other(x)
            return self.head(h) + self.other(x).sum()

    _, own = terms_of(Shared(), (torch.randn(2, 10),))
    assert "in training other.bias reads it otherwise" in own.frozen["stem:out"].reason


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fisher", "mean-activation", "fpgm"])
def test_criteria_score_layers_with_followers(criterion: str) -> None:
    data = [(torch.randn(4, 3, 9, 9), torch.randint(0, 4, (4,))) for _ in range(2)]
    result = prunus.prune(Auxiliary().eval(), images(), data=data, budget={"macs": 0.5}, criterion=criterion)
    assert result.check.ok
    assert result.model.aux.in_features == result.model.stem.out_channels < 12


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_values_of_which_code_takes_the_size_alone_follow(mode: str) -> None:
    class Scanned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(10, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            if mode == "eval" or self.training:
                state = torch.zeros(h[:, 0].shape)
                for t in range(h.shape[1]):
                    state = 0.5 * state + h[:, t]
                return self.head(state)
            return self.head(h[:, -1])

    done = keep_forward(Scanned(), (torch.randn(2, 4, 10),))
    assert not done.own.frozen
    assert done.model.stem.out_features == 6
    done.model.train()(torch.randn(2, 4, 10)).sum().backward()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_dropped_samples_need_no_second_recording_for_they_read_no_width(library: str) -> None:
    import_torchvision()
    if library == "torchvision":
        drop = pytest.importorskip("torchvision.ops").StochasticDepth(0.5, "row")
    else:
        drop = pytest.importorskip("timm.layers").DropPath(0.5)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), drop, nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    coupling = couple(capture(net, images()))
    assert training_terms(net, coupling, images()) is None
    drop.__class__ = type("Mine", (type(drop),), {"__module__": __name__})  # nobody knows what this one does
    found = training_terms(net, coupling, images())
    assert found is not None
    assert not any((found.frozen, found.equations, found.multiples, found.attributes))
