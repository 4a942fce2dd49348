"""The input size as an axis of a budget: every size is recorded and priced, one is chosen, data follow, all doors."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.analysis.input_size import at_size, size_of
from prunus.cost.memory import memory_model
from prunus.cost.price import cost_model
from prunus.data.input_size import InputSize
from prunus.data.sources import AugmentedSplit, DatasetSplit, Split
from prunus.data.splits import Splits
from prunus.errors import BudgetError, DataError, OptionError, PlanError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.pipeline import input_sizes
from prunus.pipeline.input_sizes import automatic_sizes
from prunus.plans import Plan

IMAGES = torch.randn(96, 3, 32, 32, generator=torch.Generator().manual_seed(0))
X = IMAGES[:2]


class Convolutional(nn.Module):
    """Takes images of any size; with ``flat`` those of 32×32 alone."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.head, self.flat = nn.Linear(24 * 64 if flat else 24, 4), flat

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.norm(self.stem(x)))))
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


class Tokens(nn.Module):
    """Classifies, or labels the positions of, sequences of any length up to 64."""

    def __init__(self, each: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.place = nn.Embedding(20, 16), nn.Embedding(64, 16)
        self.up, self.down, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 20)
        self.each = each

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x if self.each else x.mean(1))


def pair(count: int = 96) -> tuple[Tensor, Tensor]:
    images = IMAGES[:count]
    return images, (images.mean((1, 2, 3)) > 0).long() + 2 * (images[:, 0].mean((1, 2)) > 0).long()


def macs(model: nn.Module, inputs: Tensor, plan: Plan | None = None) -> int:
    coupling = couple(capture(model, inputs))
    return cost_model(coupling).price(*(() if plan is None else (plan.axes,))).macs_forward


def test_a_size_is_priced_by_recording_at_it():
    net = Convolutional()
    analysis = prunus.analyse(net, X)
    for side in (24, 16, 10):
        sized = at_size(analysis, (side, side))
        assert sized.cost.price().macs_forward == macs(net, torch.zeros(2, 3, side, side))
        assert sized.user_inputs.shape == (2, 3, side, side)
        assert sized.coupling.axes.keys() == analysis.coupling.axes.keys()
    assert at_size(at_size(analysis, (24, 24)), (16, 16)).user_inputs.shape[-1] == 16
    assert at_size(analysis, (32, 32)) is analysis


def test_without_data_the_size_is_that_of_the_compound_scaling():
    found = prunus.prune(Convolutional(), X, budget={"macs": 0.3}, resolution=[32, 28, 24, 20, 16])
    entry = found.plan.settings["input_size"]
    # φ = log₂ 0.3 = −1.737, and 32 · 1.15^φ = 25.1.
    assert entry["compound"] == [25.1, 25.1]
    assert (entry["before"], entry["after"], entry["chosen_by"]) == ([32, 32], [24, 24], "compound scaling")
    assert found.example_inputs.shape == (2, 3, 24, 24)
    whole = macs(Convolutional(), X)
    assert found.before.macs_forward == whole
    assert found.after.macs_forward == macs(Convolutional(), torch.zeros(2, 3, 24, 24), found.plan) <= 0.3 * whole
    assert found.check is not None
    assert found.check.ok
    assert "input size: 24×24 of 32×32, chosen by compound scaling" in str(found)


def test_with_data_the_size_of_the_lowest_judged_loss_is_taken(monkeypatch):
    data = Splits(*(Split(*pair(), name) for name in ("train", "calibration", "selection", "test")))
    losses = {32: 0.9, 24: 0.8, 16: 0.3, 12: 0.5}
    monkeypatch.setattr(input_sizes, "selection_loss", lambda analysis, plan: losses[analysis.user_inputs.shape[-1]])
    found = prunus.prune(
        Convolutional(), X, budget={"macs": 0.3}, resolution=list(losses), data=data, criterion="magnitude", repair=None
    )
    entry = found.plan.settings["input_size"]
    assert (entry["after"], entry["chosen_by"]) == ([16, 16], "selection loss")
    assert entry["tried"] == [{"size": [side, side], "loss": loss} for side, loss in losses.items()]
    losses[24] = float("nan")
    losses[16] = losses[12] = 0.7
    again = found.rebudget({"macs": 0.2})
    # Of equal losses the larger size is taken, and a loss that is not finite never.
    assert again.plan.settings["input_size"]["after"] == [16, 16]
    assert again.before == found.before


def test_the_judged_loss_is_that_of_the_cut_network_on_resized_data():
    data = Splits(*(Split(*pair(), name) for name in ("train", "calibration", "selection", "test")))
    net = Convolutional().eval()
    found = prunus.prune(net, X, budget={"macs": 0.5}, resolution=[20], data=data, criterion="magnitude", repair=None)
    sized = nn.functional.interpolate(IMAGES, (20, 20), mode="bilinear", antialias=True)
    _, targets = pair()
    assert found.analysis is not None
    batch = next(iter(found.analysis.selection.batches(96)))
    assert torch.equal(batch[0], sized)
    assert torch.equal(batch[1], targets)
    (tried,) = found.plan.settings["input_size"]["tried"]
    from prunus.methods.true_loss import selection_loss

    assert tried["loss"] == pytest.approx(selection_loss(found.analysis, found.plan))


def test_a_recovery_trains_at_the_chosen_size():
    seen = set()

    class Watched(Convolutional):
        def forward(self, x: Tensor) -> Tensor:
            if type(x) is Tensor and self.training:
                seen.add(tuple(x.shape[2:]))
            return super().forward(x)

    loader = DataLoader(TensorDataset(*pair()), 16)
    found = prunus.prune(
        Watched(),
        X,
        budget={"macs": 0.4},
        resolution=[16],
        data=loader,
        repair=None,
        criterion="magnitude",
        recover={"steps": 3, "method": "finetune"},
    )
    assert found.recovery is not None
    assert seen == {(16, 16)}


def test_a_size_that_meets_the_budget_alone_removes_nothing():
    found = prunus.prune(Convolutional(), X, budget={"macs": 0.3}, resolution=[12])
    assert found.after.params == found.before.params
    assert found.after.macs_forward < 0.3 * found.before.macs_forward
    assert found.model(torch.zeros(2, 3, 12, 12)).shape == (2, 4)


def test_memory_is_that_of_the_chosen_size():
    net = Convolutional()
    found = prunus.prune(net, X, budget={"memory": 0.6}, resolution=[28])
    whole = memory_model(couple(capture(net, X))).price()
    small = memory_model(couple(capture(net, torch.zeros(2, 3, 28, 28)))).price(found.plan.axes)
    assert small <= 0.6 * whole


def test_milliseconds_are_those_of_the_chosen_size():
    found = prunus.plan(Convolutional(), X, budget={"latency_ms": "1000ms", "macs": 0.3}, resolution=[24])
    assert size_of(found) == (24, 24)
    assert found.after.macs_forward <= 0.3 * found.before.macs_forward


@pytest.mark.parametrize("each", [False, True])
def test_sequences_are_cut_to_a_length(each):
    ids = torch.randint(20, (64, 40), generator=torch.Generator().manual_seed(4))
    targets, loss = (ids.roll(1, 1), "sparse_cross_entropy") if each else (ids[:, 0], "cross_entropy")
    found = prunus.prune(
        Tokens(each),
        ids[:2],
        budget={"macs": 0.5},
        resolution=[32, 24],
        data=[(ids[i : i + 16], targets[i : i + 16]) for i in range(0, 64, 16)],
        loss=loss,
        criterion="magnitude",
        repair=None,
        recover={"steps": 2, "method": "finetune", "loss": loss},
    )
    length = found.plan.settings["input_size"]["after"][0]
    assert length in (32, 24)
    assert found.plan.settings["input_size"]["chosen_by"] == "selection loss"
    assert found.example_inputs.shape == (2, length)
    assert f"input size: length {length} of length 40" in str(found)


def test_auto_tries_the_compound_size_and_those_around_it():
    assert automatic_sizes(InputSize((224, 224), (0,), 1), 0.3) == [(s, s) for s in (224, 192, 160, 128, 96)]
    assert automatic_sizes(InputSize((30, 40), (0,), 1), 0.5) == [(30, 40), (28, 38), (26, 34), (22, 30), (20, 26)]
    assert automatic_sizes(InputSize((128,), (0,), 1), 0.5) == [(128,), (96,)]
    found = prunus.prune(Convolutional(), X, budget={"macs": 0.3}, resolution="auto")
    assert size_of(found.plan) == (24, 24)


def test_resized_data_keep_their_form():
    before = InputSize.of(X)
    assert before is not None
    images, targets = pair(8)
    resizer = before.resizer((16, 16))
    sized = resizer.inputs(images)
    loader = resizer.data(DataLoader(TensorDataset(images, targets), 4))
    assert isinstance(loader, DataLoader)
    assert torch.equal(torch.cat([x for x, _ in loader]), sized)
    split = resizer.data(Split(images, targets))
    assert torch.equal(split.inputs, sized)
    dataset = resizer.data(DatasetSplit(TensorDataset(images, targets), torch.arange(8)))
    assert torch.allclose(next(dataset.batches(8))[0], sized)
    varied = resizer.data(AugmentedSplit(Split(images, targets), lambda x, g: torch.zeros(len(x), 3, 32, 32)))
    assert next(varied.batches(4, 1))[0].shape == (4, 3, 16, 16)
    assert [x.shape for x, _ in resizer.data([(images, targets)])] == [(8, 3, 16, 16)]
    maps = torch.arange(8 * 32 * 32).view(8, 32, 32) % 5
    assert resizer.batch((images, maps))[1].shape == (8, 16, 16)
    assert set(resizer.batch((images, maps))[1].unique().tolist()) <= set(range(5))
    with pytest.raises(DataError, match="a batch holds 2 inputs, the example call 1"):
        resizer.inputs((images, images))


def test_a_mapping_of_sequences_is_cut_with_its_mask_and_labels():
    example = {"input_ids": torch.zeros(2, 12).long(), "attention_mask": torch.ones(2, 12).long()}
    before = InputSize.of(example)
    assert before is not None
    inputs, labels = before.resizer((8,)).batch((example, torch.zeros(2, 12).long()))
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {"input_ids": (2, 8), "attention_mask": (2, 8)}
    assert labels.shape == (2, 8)


def test_a_network_of_one_size_is_refused_in_one_line():
    for resolution in ([16], "auto"):
        with pytest.raises(OptionError, match="resolution: Convolutional takes no inputs of") as caught:
            prunus.prune(Convolutional(flat=True), X, budget={"macs": 0.3}, resolution=resolution)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": "big"}, "resolution is 'big'; allowed: 'auto', or a list"),
        ({"resolution": []}, "resolution is []"),
        ({"resolution": [0]}, "resolution is [0]"),
        ({"resolution": [16.5]}, "resolution is [16.5]"),
        ({"resolution": ["16"]}, "resolution is ['16']"),
        ({"resolution": [64]}, "got 64; the example inputs are of 32×32"),
        ({"resolution": ["16x64"]}, "got '16x64'; the example inputs are of 32×32"),
        ({"resolution": [16, "16x16"]}, "16×16 is given twice"),
        ({"resolution": [16], "budget": {"params": 0.5}}, "budget params, which no input size changes"),
        ({"resolution": [16], "budget": {"macs": 0.5, "max_drop": 0.1}}, "beside budget max_drop"),
        ({"resolution": [16], "budget": {"units": 0.5}}, "budget units, which no input size changes"),
        ({"resolution": [16], "stages": [{"level": "units"}]}, "resolution stands beside stages"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(given, message):
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        prunus.prune(Convolutional(), X, **{"budget": {"macs": 0.3}, **given})
    assert "\n" not in str(caught.value)


def test_inputs_without_a_size_and_budgets_out_of_reach_are_refused():
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    with pytest.raises(OptionError, match="hold neither images"):
        prunus.prune(net, torch.zeros(2, 8), budget={"macs": 0.5}, resolution=[4])
    with pytest.raises(BudgetError, match=r"No input size has a plan .* 24×24: "):
        prunus.prune(Convolutional(), X, budget={"macs": 1}, resolution=[24])
    with pytest.raises(BudgetError, match="at its original input size"):
        prunus.prune(Convolutional(), X, budget={"macs": 1.0}, resolution=[24])


def test_a_stored_plan_is_applied_at_its_size_and_another_kind_is_refused(tmp_path):
    net = Convolutional()
    plan = prunus.plan(net, X, budget={"macs": 0.3}, resolution=[24])
    plan.save(tmp_path / "plan")
    stored = Plan.load(tmp_path / "plan")
    found = prunus.apply(net, stored, X)
    assert found.example_inputs.shape == (2, 3, 24, 24)
    found.save(tmp_path / "small")
    assert json.loads((tmp_path / "small" / "plan.json").read_text())["settings"]["input_size"]["after"] == [24, 24]
    small = prunus.load(tmp_path / "small", Convolutional())
    assert torch.equal(small(found.example_inputs), found.model(found.example_inputs))
    for after in ("24", [24.0, 24], [0, 24], None):
        entry = {**stored.settings["input_size"], "after": after}
        with pytest.raises(PlanError, match="the plan's setting input_size is"):
            prunus.apply(net, replace(stored, settings={**stored.settings, "input_size": entry}), X)
    entry = {**stored.settings["input_size"], "after": [24]}
    with pytest.raises(PlanError, match="the example inputs are of another kind"):
        prunus.apply(net, replace(stored, settings={**stored.settings, "input_size": entry}), X)


def test_later_data_of_the_original_size_are_resized():
    net, batches = Convolutional(), [(IMAGES[i : i + 16], pair()[1][i : i + 16]) for i in range(0, 96, 16)]
    found = prunus.prune(net, X, budget={"macs": 0.4}, resolution=[16])
    shapes = set()
    found.model.register_forward_pre_hook(lambda module, given: shapes.add(tuple(given[0].shape[2:])))
    trained = prunus.recover(found, batches, {"steps": 2, "method": "finetune"})
    prunus.repair(found, batches, repair="bias")
    assert trained.recovery is not None
    assert shapes <= {(16, 16)}
    start = prunus.repair(found, batches, repair="none")
    points = prunus.frontier(start, steps=[0, 2], recover={"method": "finetune"}, test=batches).frontier.points
    sized = nn.functional.interpolate(IMAGES, (16, 16), mode="bilinear", antialias=True)
    right = found.model.eval()(sized).argmax(1) == pair()[1]
    assert points[0].test_accuracy == pytest.approx(float(right.double().mean()))
    assert prunus.verify(found).ok
