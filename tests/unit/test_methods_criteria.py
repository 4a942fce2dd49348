"""Criteria as options of methods: wanda of weights, the wrong level, shares of less than one module, and the tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.criteria import criterion_name
from prunus.errors import OptionError
from prunus.methods.layer_wise import Scan
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import weight_scores
from prunus.report.plan_table import plan_lines


class Residual(nn.Module):
    """Two residual blocks of linear layers."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(blocks))
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def convolutions() -> nn.Sequential:
    """A grouped and a depthwise convolution, a flatten and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 2, 4, 4, generator=generator)
    return [(x, torch.randint(0, 3, (48,), generator=generator))]


def planned(model: nn.Module, x: torch.Tensor, budget: dict[str, Any], **options: Any) -> prunus.Plan:
    return prunus.plan(model, x, budget=budget, **options)


WEIGHT = {"levels": ("weight",)}


def test_wanda_ranks_weights_by_size_times_the_norm_of_their_input() -> None:
    net = nn.Linear(10, 1, bias=False)
    net.weight.data = torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1, 0.5, 0.4, 0.3, 0.2, 0.1]])
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.2, 4.0, 9.0, 30.0])
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).sign() * scale
    products = (net.weight.data.abs() * scale)[0]
    expected = set(products.topk(3).indices.tolist())
    for budget in ({"top_n": 3}, {"weights": 0.3}, {"threshold": 1.0}):
        plan = planned(net, x[:2], budget, criterion="wanda", data=[x], **WEIGHT)
        assert set(plan.masks["weight"][0].nonzero()[0].tolist()) == expected == {7, 8, 9}


def test_wanda_of_weights_reads_every_kind_of_layer() -> None:
    net, batches = convolutions(), images()
    norms: list[torch.Tensor] = []
    hook = net[6].register_forward_pre_hook(lambda _, args: norms.append(args[0].square().mean(0).sqrt()))
    net(batches[0][0])
    hook.remove()
    own = net[6].weight.detach().abs() * norms[0]
    plan = planned(net, torch.zeros(2, 2, 4, 4), {"weights": {"6": 0.25}}, criterion="wanda", data=batches, **WEIGHT)
    kept = torch.from_numpy(plan.masks["6.weight"])
    assert int(kept.sum()) == own.numel() // 4
    assert own[kept].min() >= own[~kept].max() * (1 - 1e-5)


def test_weights_whose_inputs_are_not_seen_take_the_mean_norm() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))
    tokens = torch.randint(0, 7, (32, 3))
    analysis = prunus.analyse(net, tokens[:2], data=[tokens])
    scores = weight_scores(analysis, net, ["0.weight", "2.weight"], "wanda")
    rms = net[1](net[0](tokens)).detach().square().mean(0).sqrt()
    torch.testing.assert_close(scores["2.weight"], net[2].weight.detach().abs() * rms, check_dtype=False)
    torch.testing.assert_close(scores["0.weight"], net[0].weight.detach().abs() * rms.mean(), check_dtype=False)


def test_wanda_mixes_with_criteria_of_gradients() -> None:
    net, batches, x = convolutions(), images(), torch.zeros(2, 2, 4, 4)
    mixture = {"wanda": 1, "importance": 2}
    plans = [planned(net, x, {"weights": 0.3}, criterion=c, data=batches, **WEIGHT) for c in ("wanda", mixture)]
    assert plans[0].masked == plans[1].masked > 0
    assert any((plans[0].masks[n] != plans[1].masks[n]).any() for n in plans[0].masks.keys() & plans[1].masks.keys())


@pytest.mark.parametrize(
    ("criterion", "kind"),
    [
        ("wanda", "batches of inputs, with or without targets"),
        ("importance", "batches of .inputs, targets."),
        ({"wanda": 1.0, "magnitude": 1.0}, "batches of inputs"),
    ],
    ids=str,
)
def test_a_weight_criterion_without_its_data_is_refused_in_one_line(criterion: Any, kind: str) -> None:
    with pytest.raises(OptionError, match=f"criterion .* needs data={kind}.*; give some, or use magnitude"):
        planned(convolutions(), torch.zeros(2, 2, 4, 4), {"params": 0.5}, criterion=criterion, **WEIGHT)


def test_a_criterion_of_the_wrong_level_names_those_of_the_right_one() -> None:
    net, x = convolutions(), torch.zeros(2, 2, 4, 4)
    with pytest.raises(OptionError, match=r"'taylor' scores units, and weights are ranked here; allowed .* wanda, gra"):
        planned(net, x, {"params": 0.5}, criterion="taylor", **WEIGHT)
    with pytest.raises(OptionError, match=r"'importance' scores weights, and units are ranked here; .*sensitivity"):
        planned(net, x, {"params": 0.5}, criterion="importance")
    with pytest.raises(OptionError, match="'lamp' scores weights, and units are ranked here"):
        planned(net, x, {"params": 0.5}, criterion={"lamp": 1, "magnitude": 1})


def test_a_share_of_less_than_one_module_says_that_one_stays() -> None:
    x, batches = torch.zeros(2, 8), [(torch.randn(32, 8), torch.randint(0, 3, (32,)))]
    plan = planned(Residual(), x, {"modules": 0.1}, data=batches)
    note = plan.settings["counted"]["note"]
    assert note.startswith("budget modules: 0.1 is less than one of 2 modules, and one stays")
    assert "0.5" in note
    assert note in list(plan_lines(plan))
    assert note in str(prunus.prune(Residual(), x, budget={"modules": 0.1}, data=batches, repair=None))
    exact = planned(Residual(), x, {"modules": 0.5}, data=batches)
    assert exact.axes == plan.axes
    assert "note" not in exact.settings["counted"]


def test_tables_say_how_many_parameters_the_masks_leave() -> None:
    net, x = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 2)), torch.zeros(2, 10)
    plan = planned(net, x, {"weights": 60}, **WEIGHT)
    total, masked = 10 * 10 + 10 + 10 * 2 + 2, 120 - 60
    row = next(line for line in plan_lines(plan) if line.startswith("params not masked"))
    assert row.split()[3:5] == [str(total), str(total - masked)]
    assert "60 of 120 weights stay" in list(plan_lines(plan))
    table = str(prunus.prune(net, x, budget={"weights": 60}, repair=None))
    assert next(line for line in table.splitlines() if line.startswith("params not masked")).split()[4] == "72"


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))


def vectors() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(48, 8, generator=generator), torch.randint(0, 3, (48,), generator=generator))]


UNIT_CRITERIA = ("taylor", "contribution", "apoz", {"magnitude": 0.3, "taylor": 0.5, "contribution": 0.2})


@pytest.mark.parametrize("criterion", UNIT_CRITERIA, ids=str)
@pytest.mark.parametrize("method", ["layer-wise", "unit-wise", "window-wise"])
def test_units_leave_in_the_order_of_the_criterion(method: str, criterion: Any) -> None:
    window = {"window": {"units": 1}} if method == "window-wise" else {}
    analysis = prunus.analyse(stack(), torch.zeros(2, 8), data=vectors())
    plan = analysis.plan({"params": 0.5}, method=method, criterion=criterion, **window)
    assert plan.settings["criterion"] == criterion_name(criterion)
    assert plan.axes
    assert plan.after.params <= plan.before.params * 0.5
    for axis, scores in unit_scores(analysis, criterion).items():
        kept = plan.axes.get(axis, np.ones(len(scores), bool))
        assert kept.all() or scores[kept].min() >= scores[~kept].max()


def test_the_defaults_of_the_methods_are_those_of_before() -> None:
    analysis = prunus.analyse(stack(), torch.zeros(2, 8), data=vectors())
    for method, named in (("layer-wise", "magnitude"), ("unit-wise", "sensitivity")):
        plain = analysis.plan({"params": 0.5}, method=method)
        assert plain.settings["criterion"] == named
        given = analysis.plan({"params": 0.5}, method=method, criterion=named)
        assert all((plain.axes[axis] == given.axes[axis]).all() for axis in plain.axes | given.axes)


@pytest.mark.parametrize("criterion", [None, "importance", {"snip": 1, "magnitude": 1}], ids=str)
def test_layer_wise_masks_each_layer_by_the_loss_when_it_alone_is_masked(criterion: Any) -> None:
    net, batches = stack(), vectors()
    (x, y), *_ = batches
    analysis = prunus.analyse(net, torch.zeros(2, 8), data=batches)
    plan = analysis.plan({"params": 0.5}, method="layer-wise", criterion=criterion, **WEIGHT)
    assert not plan.axes
    assert plan.before.params - plan.masked == plan.before.params // 2
    ranked = weight_scores(analysis, net, [f"{i}.weight" for i in (0, 2, 4)], criterion or "magnitude")
    scan = Scan(analysis.memo[f"sensitivity scan of weights:{criterion_name(criterion or 'magnitude')}"])
    dense = float(nn.functional.cross_entropy(net(x), y).detach())
    shares = {}
    for name, scores in ranked.items():
        kept = torch.from_numpy(plan.masks.get(name, np.ones(scores.shape, bool)))
        assert kept.all() or scores[kept].min() >= scores[~kept].max()
        shares[name] = float(kept.float().mean())
        order = scores.reshape(-1).argsort(descending=True, stable=True)
        mask = torch.zeros(scores.numel())
        mask[order[: round(0.5 * scores.numel())]] = 1
        alone = {**net.state_dict(), name: net.get_parameter(name).detach() * mask.reshape(scores.shape)}
        loss = float(nn.functional.cross_entropy(torch.func.functional_call(net, alone, (x,)), y))
        assert float(scan.at(name, np.array(0.5))) >= loss - dense - 1e-6  # the monotone rise
    sizes = {name: scores.numel() for name, scores in ranked.items()}
    even = sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())
    predicted = sum(float(scan.at(name, np.array(share))) for name, share in shares.items())
    assert predicted <= sum(float(scan.at(name, np.array(even))) for name in sizes) + 1e-9
    assert len({round(share, 2) for share in shares.values()}) > 1


def test_unit_wise_ranks_all_connections_together() -> None:
    net, batches = stack(), vectors()
    options = {"budget": {"params": 0.4}, "data": batches, "levels": ("weight",)}
    for criterion in (None, "importance", {"magnitude": 1, "wanda": 2}):
        one = prunus.plan(net, torch.zeros(2, 8), method="unit-wise", criterion=criterion, **options)
        other = prunus.plan(net, torch.zeros(2, 8), criterion=criterion, **options)
        assert all((one.masks[name] == other.masks[name]).all() for name in one.masks | other.masks)
        assert "connections" in one.decisions[0].reason
    counted = prunus.plan(net, torch.zeros(2, 8), method="unit-wise", budget={"weights": 30}, levels=("weight",))
    assert counted.settings["counted"] == {"kind": "weights", "kept": 30, "of": 8 * 20 + 20 * 10 + 10 * 3}


def test_options_that_do_not_fit_the_method_are_refused_in_one_line() -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"method": "layer-wise", "criterion": "obs-units"}, "gives no score to rank; with method 'layer-wise'"),
        ({"method": "layer-wise", "criterion": "lamp"}, "'lamp' scores weights, and units are ranked here"),
        ({"method": "layer-wise", "criterion": "fisher", **WEIGHT}, "'fisher' scores units, and weights are ranked"),
        ({"method": "unit-wise", "levels": ("unit", "weight")}, "works at one level at a time"),
        ({"method": "modular", "criterion": "magnitude"}, "scores no branches, and modules are ranked here"),
        ({"method": "depth", "criterion": {"apoz": 1, "taylor": 1}}, "'taylor' scores no branches"),
        ({"method": "window-tile", "window": [2, 2]}, "takes no window .* use method 'window-wise'"),
        ({"window": [2, 2]}, "takes no window"),
        ({"method": "layer-wise", "methods": ["depth"]}, "takes no methods .* use method 'integrated'"),
    )
    for options, message in cases:
        with pytest.raises(OptionError, match=message) as refused:
            planned(stack(), torch.zeros(2, 8), {"params": 0.5}, data=vectors(), **options)
        assert "\n" not in str(refused.value)
    with pytest.raises(OptionError, match="zero, which does not change macs"):
        planned(stack(), torch.zeros(2, 8), {"macs": 0.5}, data=vectors(), method="layer-wise", **WEIGHT)
