"""Repair from outside: better networks, nothing lost, bad input refused or reported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_pruned import same_state
from factories_repair import cut_half, distance, net, nothing, samples
from prunus.errors import DataError, ModelError, OptionError
from prunus.repairs import REPAIRS, repair_
from prunus.repairs.room import VALUES

X = samples(2, 9)
FRESH = samples(64, 77)


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunus.repairs.blocks.STEPS", 20)
    monkeypatch.setattr("prunus.repairs.blocks.LAST_STEPS", 40)


@pytest.fixture(scope="module")
def cut_net() -> tuple[nn.Module, Any, Any]:
    model = net()
    coupling, result = cut_half(model, X)
    return model, coupling, result


@pytest.mark.parametrize("name", ["statistics", "bias", "scales", "refold", "blockwise", "matching", "auto"])
def test_a_repair_brings_fresh_outputs_closer(cut_net: tuple[nn.Module, Any, Any], name: str) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    before = distance(model, small, FRESH)
    report = repair_(model, small, coupling, result.plan, [samples(96)], repair=name)
    assert report.samples == 96
    assert report.after < report.before
    assert distance(model, small, FRESH) < before
    assert report.chosen == name or name == "auto"
    assert report.chosen in str(report)


def test_auto_takes_the_best_of_what_it_tried(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    report = repair_(model, copy.deepcopy(result.model), coupling, result.plan, [samples(96)], effort="best")
    assert set(report.tried) == set(REPAIRS.names()) - {"blockwise"}  # the first half of matching
    assert report.tried[report.chosen] == report.after == min(report.tried.values())
    layers = {layer.name for layer in report.layers}
    assert layers == {f"{name}.weight" for name in ("stem", "a", "b", "deep", "grouped", "hidden", "head")}
    assert all(layer.after <= layer.before for layer in report.layers)


def test_refold_beats_bias_beats_nothing(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    left = []
    for name in ("refold", "bias"):
        small = copy.deepcopy(result.model)
        repair_(model, small, coupling, result.plan, [samples(128)], repair=name)
        left.append(distance(model, small, FRESH))
    assert left[0] < left[1] < distance(model, result.model, FRESH)


def test_the_dense_network_and_the_modes_are_left_alone(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    before, small = copy.deepcopy(model), copy.deepcopy(result.model).train()
    report = repair_(model, small, coupling, result.plan, [samples(64)], repair="refold")
    assert same_state(before, model)
    assert small.training
    again = copy.deepcopy(result.model)  # dropout and batch norm in training mode change nothing
    assert repair_(model, again, coupling, result.plan, [samples(64)], repair="refold") == report
    assert same_state(small, again)


def test_a_plan_that_removes_nothing_changes_nothing() -> None:
    model = net()
    coupling, plan = nothing(model, X)
    small = copy.deepcopy(model)
    report = repair_(model, small, coupling, plan, [samples(64)])
    assert report.chosen == "none"
    assert report.before == 0
    assert same_state(model, small)


def test_training_mode_statistics_are_those_of_the_small_network(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    data = samples(512)
    repair_(model, small, coupling, result.plan, [data], repair="statistics")
    with torch.no_grad():
        seen = small.stem(data)
    torch.testing.assert_close(small.norm.running_mean, seen.mean((0, 2, 3)), rtol=0.1, atol=0.02)
    torch.testing.assert_close(small.norm.running_var, seen.var((0, 2, 3)), rtol=0.1, atol=0.02)


def test_memory_limits_the_samples(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small, memory = copy.deepcopy(result.model), int((1 << 20) / VALUES)
    report = repair_(model, small, coupling, result.plan, [samples(96)], repair="bias", memory_limit=memory)
    # The widest moment of a sample holds about 40 planes of 8 x 8 floats, in two networks.
    assert 20 < report.samples < 96
    assert "would take more" in str(report)


def test_masked_weights_stay_zero_and_the_rest_moves() -> None:
    model = net()
    coupling, result = cut_half(model, X, budget={"params": 0.4}, levels=("unit", "weight"))
    for name in ("refold", "blockwise", "matching"):
        small = copy.deepcopy(result.model)
        zero = {n: p == 0 for n, p in small.named_parameters() if p.dim() > 1}
        report = repair_(model, small, coupling, result.plan, [samples(96)], repair=name)
        assert report.chosen == name
        assert sum(int(z.sum()) for z in zero.values()) > 100
        moved = dict(small.named_parameters())
        assert all((moved[n][z] == 0).all() for n, z in zero.items())
        assert not torch.equal(moved["hidden.weight"], result.model.hidden.weight)


def test_a_repaired_network_saves_and_loads(tmp_path: Path) -> None:
    result = prunus.prune(net(), X, budget={"params": 0.6}, data=[samples(64)])
    assert result.repair is not None
    assert result.repair.chosen != "none"
    prunus.save(result, tmp_path / "small")
    loaded = prunus.load(tmp_path / "small", net(seed=3))
    assert torch.equal(loaded(FRESH), result.model(FRESH))


def test_prune_repairs_where_there_are_data_and_says_so() -> None:
    model = net()
    plain = prunus.prune(model, X, budget={"params": 0.6})
    left = prunus.prune(model, X, budget={"params": 0.6}, criterion="magnitude", data=iter([samples(64)]), repair=None)
    mended = prunus.prune(model, X, budget={"params": 0.6}, criterion="magnitude", data=iter([samples(64)]))
    assert plain.repair is None
    assert left.repair is None
    assert same_state(plain.model, left.model)
    assert mended.repair is not None
    assert f"repair: {mended.repair.chosen}" in str(mended)
    assert distance(model, mended.model, FRESH) < distance(model, left.model, FRESH)


@pytest.mark.parametrize(
    "shaped",
    [
        lambda x: x,
        lambda x: [x],
        lambda x: [(x, torch.zeros(len(x)))],
        lambda x: [[x]],
        lambda x: list(x.split(5)),
        lambda x: iter([x[:30], x[30:]]),
    ],
    ids=["tensor", "list", "pairs", "singles", "odd", "iterator"],
)
def test_every_form_of_batches_gives_the_same_repair(cut_net: tuple[nn.Module, Any, Any], shaped: Any) -> None:
    model, coupling, result = cut_net
    wanted, small = copy.deepcopy(result.model), copy.deepcopy(result.model)
    data = samples(40)
    repair_(model, wanted, coupling, result.plan, [data], repair="refold")
    repair_(model, small, coupling, result.plan, shaped(data), repair="refold")
    assert same_state(wanted, small)


def poisoned() -> Tensor:
    data = samples(16)
    data[3, 0, 0, 0] = float("nan")
    return data


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (iter(()), "no calibration batches"),
        ([poisoned()], "NaN or infinity"),
        ([samples(1)], "at least 4"),
        ([(samples(8), 1, 2)], "3 parts"),
        ([torch.zeros(8, 5, 8, 8)], "does not go through the model"),
        (7, "int"),
    ],
    ids=["empty", "nan", "one sample", "three parts", "shape", "number"],
)
def test_bad_data_is_refused_and_nothing_is_changed(cut_net: tuple[nn.Module, Any, Any], data: Any, part: str) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    with pytest.raises(DataError, match=part):
        repair_(model, small, coupling, result.plan, data, repair="refold")
    assert same_state(small, result.model)


def test_auto_tells_why_it_did_nothing(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    report = repair_(model, small, coupling, result.plan, [samples(1)])
    assert report.chosen == "none"
    assert "at least 4" in str(report)
    assert same_state(small, result.model)


def test_what_does_not_help_is_taken_back(cut_net: tuple[nn.Module, Any, Any]) -> None:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    repair_(model, small, coupling, result.plan, [samples(512)], repair="refold")
    before = copy.deepcopy(small)
    report = repair_(model, small, coupling, result.plan, [samples(5)], repair="statistics")
    assert report.chosen == "none"
    assert "taken back" in str(report)
    assert same_state(small, before)


def test_an_unknown_repair_is_refused_before_anything_is_pruned() -> None:
    with pytest.raises(OptionError, match=r"repair 'refolt' is unknown\. Did you mean 'refold'"):
        prunus.prune(nn.Linear(4, 4), torch.zeros(2, 4), budget={"params": 0.5}, repair="refolt")


def test_a_model_that_draws_numbers_is_left_alone() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.one(x)
            out: Tensor = self.two(hidden + torch.rand_like(hidden))
            return out

    model, x = Noisy().eval(), torch.randn(32, 4)
    coupling, result = cut_half(model, x[:2])
    assert repair_(model, result.model, coupling, result.plan, [x]).chosen == "none"
    with pytest.raises(ModelError, match="draws random numbers"):
        repair_(model, result.model, coupling, result.plan, [x], repair="refold")


def test_dead_and_repeated_inputs_and_few_samples_do_not_break_a_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    with torch.no_grad():
        model[0].weight[:5] = 0
        model[0].bias[:5] = -1  # never answer
        model[0].weight[5:10] = model[0].weight[10:15]
        model[0].bias[5:10] = model[0].bias[10:15]
    coupling, result = cut_half(model, torch.randn(2, 6), budget={"params": 0.7})
    small = copy.deepcopy(result.model)
    data = torch.randn(12, 6)  # fewer rows than inputs of the head
    report = repair_(model, small, coupling, result.plan, [data], repair="refold")
    assert all(bool(p.isfinite().all()) for p in small.parameters())
    if report.chosen == "refold":
        assert distance(model, small, torch.randn(64, 6)) < 1.0


def test_tied_weights_are_left_alone_and_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.middle = nn.Embedding(11, 8), nn.Linear(8, 16)
            self.back, self.out = nn.Linear(16, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.out(self.back(self.middle(self.words(ids)).relu()))
            return out

    torch.manual_seed(0)
    model = Tied().eval()
    ids = torch.randint(0, 11, (32, 5))
    coupling, result = cut_half(model, ids[:2])
    tied = result.model.words.weight.clone()
    report = repair_(model, result.model, coupling, result.plan, [ids], repair="refold")
    assert report.chosen == "refold"
    assert "words.weight" in str(report)
    assert torch.equal(result.model.words.weight, tied)
    assert result.model.out.weight is result.model.words.weight
