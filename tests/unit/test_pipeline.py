"""`prune`, `plan` and `apply`: criteria, levels, ignore patterns, and what stays as the user had it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prunus
from prunus.errors import DataError, OptionError, PlanError, SelectorError
from prunus.plans import Plan
from prunus.surgery.proving.verify import Check

INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
DATA = [(INPUTS, LABELS)]
HALF = {"params": 0.5}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(12, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """A language model whose output weights are its embedding: one object, or two that share memory."""

    def __init__(self, *, one_object: bool = True) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head.weight = self.embed.weight if one_object else nn.Parameter(self.embed.weight.data)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        return self.head(x + self.down(F.relu(self.up(x))))


@pytest.mark.parametrize("criterion", ["magnitude", "contribution", "sensitivity", "taylor", "random"])
def test_every_criterion_prunes_to_the_budget(criterion: str) -> None:
    result = prunus.prune(mlp(), INPUTS, budget=HALF, criterion=criterion, data=DATA)
    assert 0.4 * 355 < result.after.params <= 0.5 * 355
    assert sum(p.numel() for p in result.model.parameters()) == result.after.params
    assert result.check.error < 1e-8
    assert result.plan.decisions
    assert all(criterion in d.reason for d in result.plan.decisions)


@pytest.mark.parametrize("criterion", ["contribution", "sensitivity", "taylor"])
def test_criteria_say_what_data_they_need(criterion: str) -> None:
    with pytest.raises(OptionError, match=f"{criterion}.*needs data"):
        prunus.prune(mlp(), INPUTS, budget=HALF, criterion=criterion)
    with pytest.raises(DataError, match="no calibration batches"):
        prunus.prune(mlp(), INPUTS, budget=HALF, criterion=criterion, data=[])


def test_a_generator_serves_as_data() -> None:
    one = prunus.plan(mlp(), INPUTS, budget=HALF, criterion="taylor", data=(pair for pair in DATA))
    assert one == prunus.plan(mlp(), INPUTS, budget=HALF, criterion="taylor", data=DATA)


def test_magnitude_removes_the_units_of_least_norm() -> None:
    model = mlp()
    with torch.no_grad():
        for layer, units in ((model[0], [3, 7]), (model[2], [5])):
            layer.weight[units] *= 1e-3
            layer.bias[units] *= 1e-3
    keep = prunus.prune(model, INPUTS, budget={"params": 0.8}).plan.keep
    assert not set(keep["0.weight"][0]) & {3, 7}
    assert 5 not in keep["2.weight"][0]
    assert np.array_equal(keep["0.weight"][0], keep["2.weight"][1])
    assert np.array_equal(keep["0.weight"][0], keep["0.bias"][0])


def test_kept_values_are_those_of_the_original() -> None:
    model = convnet()
    result = prunus.prune(model, IMAGES, budget=HALF)
    for name, tensor in result.model.state_dict().items():
        value = model.state_dict()[name]
        for dim, index in result.plan.keep.get(name, {}).items():
            value = value.index_select(dim, torch.from_numpy(index))
        assert torch.equal(tensor, value), name


def test_seeds_decide_random_choices() -> None:
    plans = [prunus.plan(mlp(), INPUTS, budget=HALF, criterion="random", seed=s) for s in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert any(not np.array_equal(plans[0].axes[a], plans[2].axes[a]) for a in plans[0].axes)


def test_unknown_criteria_and_levels_are_named() -> None:
    with pytest.raises(OptionError, match=r"'magnitud'.* Did you mean 'magnitude'"):
        prunus.prune(mlp(), INPUTS, budget=HALF, criterion="magnitud")
    levels: Sequence[Sequence[str]] = [(), "unit", ("units",), ("unit", "block")]
    for wrong in levels:
        with pytest.raises(OptionError, match="levels is"):
            prunus.prune(mlp(), INPUTS, budget=HALF, levels=wrong)


def nonzero(model: nn.Module) -> int:
    return sum(int(p.count_nonzero()) for p in model.parameters())


def test_the_weight_level_masks_and_keeps_shapes() -> None:
    model = mlp()
    result = prunus.prune(model, INPUTS, budget=HALF, levels=("weight",))
    assert result.before == result.after
    assert nonzero(result.model) == int(0.5 * 355)
    assert [p.shape for p in result.model.parameters()] == [p.shape for p in model.parameters()]
    assert result.plan.masks.keys() == {"0.weight", "2.weight", "4.weight"}
    assert "params not masked" in str(result)


def test_unit_and_weight_levels_share_one_budget() -> None:
    result = prunus.prune(mlp(), INPUTS, budget=HALF, levels=("unit", "weight"))
    assert nonzero(result.model) == int(0.5 * 355)
    assert 0.5 * 355 < result.after.params < 355
    assert result.plan.axes
    assert result.plan.masks


def test_the_weight_level_refuses_budgets_it_cannot_change() -> None:
    with pytest.raises(OptionError, match="masked weights are zeros"):
        prunus.prune(mlp(), INPUTS, budget={"macs": 0.5}, levels=("weight",))


@pytest.mark.parametrize("pattern", ["4", "4.weight", "[4-9]", "re:^4$", "4*"])
def test_ignored_layers_stay_as_they_are(pattern: str) -> None:
    model = mlp()
    result = prunus.prune(model, INPUTS, budget=HALF, ignore=[pattern])
    assert torch.equal(result.model[4].weight, model[4].weight)
    assert result.model[0].weight.shape[0] < 16
    assert result.plan.settings["ignore"] == [pattern]


def test_ignored_classes_stay_as_they_are() -> None:
    class Special(nn.Linear):
        pass

    model = mlp()
    model[4] = Special(12, 3)
    result = prunus.prune(model, INPUTS, budget=HALF, ignore=["Special"])
    assert result.model[4].weight.shape == (3, 12)
    masked = prunus.prune(model, INPUTS, budget={"params": 0.7}, levels=("weight",), ignore=["Special"])
    assert masked.plan.masks.keys() == {"0.weight", "2.weight"}


def test_ignoring_a_tied_layer_holds_what_it_is_tied_to() -> None:
    for one_object in (True, False):
        plan = prunus.plan(
            Tied(one_object=one_object), torch.zeros(2, 5, dtype=torch.long), budget=HALF, ignore=["head"]
        )
        assert set(plan.axes) == {"up:out"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("Lineer", r"'Lineer' matches no module, class or tensor. Did you mean 'Linear'\?"),
        ("0.wieght", "'0.wieght' matches no module"),
        ("re:(", "not a regular expression"),
        ("layer9.*", "'layer9.*' matches no module"),
    ],
)
def test_patterns_that_match_nothing_are_named(pattern: str, message: str) -> None:
    with pytest.raises(SelectorError, match=message):
        prunus.prune(mlp(), INPUTS, budget=HALF, ignore=["0", pattern])


def test_ignore_is_a_list_of_texts() -> None:
    for wrong in ("head", [3]):
        with pytest.raises(OptionError, match="allowed: a list of patterns"):
            prunus.prune(mlp(), INPUTS, budget=HALF, ignore=wrong)


@pytest.mark.parametrize("one_object", [True, False])
@pytest.mark.parametrize("levels", [("unit",), ("weight",), ("unit", "weight")])
def test_tied_weights_stay_tied(one_object: bool, levels: tuple[str, ...]) -> None:
    ids = torch.randint(0, 9, (2, 5))
    small = prunus.prune(Tied(one_object=one_object), ids, budget=HALF, levels=levels).model
    assert small.head.weight is small.embed.weight
    before = small.head.weight.detach().clone()
    torch.optim.SGD(small.parameters(), 0.1).step(lambda: _loss(small, ids))
    assert not torch.equal(small.embed.weight, before)


def _loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    loss = model(ids).square().mean()
    loss.backward()
    return loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    result = prunus.prune(mlp().to(dtype), INPUTS.to(dtype), budget=HALF)
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert result.after.param_bytes == result.after.params * dtype.itemsize
    assert result.model(INPUTS.to(dtype)).dtype == dtype


@pytest.mark.parametrize("training", [True, False])
def test_modes_flags_and_hooks_stay(training: bool) -> None:
    model, seen = convnet().train(training), list[str]()
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model[4].register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    model[6].register_forward_pre_hook(lambda module, args: seen.append("before the head"))
    small = prunus.prune(model, IMAGES, budget=HALF).model
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {"4.weight"}
    seen.clear()
    small(IMAGES)
    assert seen == ["Conv2d", "before the head"]


def test_frozen_layers_are_scored_by_taylor_too() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    result = prunus.prune(model, INPUTS, budget=HALF, criterion="taylor", data=DATA)
    assert result.model[0].weight.shape[0] < 16
    assert not result.model[0].weight.requires_grad
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("name", ["DataParallel", "DistributedDataParallel", "compiled", "compiled in place"])
def test_wrappers_are_looked_through(name: str) -> None:
    model = mlp()
    wrapped: nn.Module = model
    if name == "compiled":
        wrapped = torch.compile(model)
    elif name == "compiled in place":
        model.compile()
    else:
        wrapped = type(name, (nn.Module,), {})()
        wrapped.module = model
    result = prunus.prune(wrapped, INPUTS, budget=HALF)
    assert type(result.model) is nn.Sequential
    assert result.plan == prunus.plan(mlp(), INPUTS, budget=HALF)
    assert torch.equal(prunus.apply(wrapped, result.plan, INPUTS).model(INPUTS), result.model(INPUTS))


@pytest.mark.parametrize("given", ["tensor", "tuple", "list", "dict"])
def test_example_inputs_in_every_spelling(given: str) -> None:
    inputs = {"tensor": INPUTS, "tuple": (INPUTS,), "list": [INPUTS], "dict": {"input": INPUTS}}[given]
    assert prunus.prune(mlp(), inputs, budget=HALF).after.params <= 177


def test_apply_refuses_another_model() -> None:
    plan = prunus.plan(mlp(), INPUTS, budget=HALF)
    with pytest.raises(PlanError, match=r"fingerprint .* Plan again"):
        prunus.apply(nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3)), plan, INPUTS)


def test_a_plan_is_settled_before_it_is_applied(tmp_path: Path) -> None:
    plan = prunus.plan(mlp(), INPUTS, budget={"params": np.float32(0.5)}, criterion="random", seed=3)
    plan.save(tmp_path / "plan")
    again = Plan.load(tmp_path / "plan")
    assert again == plan
    settings = json.loads((tmp_path / "plan" / "plan.json").read_text())["settings"]
    assert settings == {
        "budget": HALF,
        "criterion": "random",
        "levels": ["unit"],
        "ignore": [],
        "held": [],
        "seed": 3,
        "forward": "keep",
    }
    assert prunus.apply(mlp(), again, INPUTS).model[0].weight.shape[0] < 16


def test_the_result_prints_as_a_table() -> None:
    result = prunus.prune(mlp(), INPUTS, budget=HALF)
    text = str(result)
    for word in ("params", "MACs forward", "bytes", "355", "masked ≡ cut: ok", "coverage: "):
        assert word in text
    assert isinstance(result.check, Check)
    assert result.coverage == 1 - 3 / 355
    assert result.surgery.mode == "module"


@pytest.mark.parametrize("options", [{}, {"data": DATA}, {"data": DATA, "loss": "cross_entropy"}], ids=str)
def test_an_outcome_pickles(options: dict[str, object]) -> None:
    found = prunus.prune(mlp(), INPUTS, budget=HALF, **options)
    again = pickle.loads(pickle.dumps(found))
    assert again.plan == found.plan
    assert str(again) == str(found)
    assert torch.equal(again.model(INPUTS), found.model(INPUTS))
    assert again.rebudget({"params": 0.4}).plan == found.rebudget({"params": 0.4}).plan
    value = again.analysis.loss(found.model(INPUTS), LABELS)
    assert torch.equal(value, found.analysis.loss(found.model(INPUTS), LABELS))
