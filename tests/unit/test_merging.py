"""Merging: what stays takes over the least-squares share of what goes, in weights, plans, folders and undo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.errors import OptionError, PlanError
from prunus.methods.merging import merged, paired_inputs
from prunus.pipeline.request import Request
from prunus.plans import Plan
from prunus.substitutes import SUBSTITUTES


def chain(twins: bool = True) -> nn.Sequential:
    """Return convolutions behind each other; the second half of the first one's units is the first at another scale."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4),
    )
    if twins:
        with torch.no_grad():
            net[0].weight[4:], net[0].bias[4:] = net[0].weight[:4] * 1.5, net[0].bias[:4] * 1.5
    return net.eval()


def images(count: int = 48) -> torch.Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def plan_without(
    net: nn.Module, axis: str, units: list[int], data: torch.Tensor
) -> tuple[prunus.analysis.Analysis, Plan]:
    from prunus.analysis.score import make_plan

    it = prunus.analyse(net, data[:2], data=data)
    mask = np.ones(it.coupling.axes[axis].size, bool)
    mask[units] = False
    return it, make_plan(it.coupling, {axis: mask})


def test_twins_that_go_leave_the_outputs_as_they_were() -> None:
    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [4, 5, 6, 7], data)
    dropped = prunus.realise(it, plan, repair=None).model(data)
    outcome = prunus.realise(it, merged(it, plan), repair=None)
    assert outcome.check is not None
    assert outcome.check.ok
    assert (dropped - net(data)).norm() > 0.1 * net(data).norm()
    assert torch.allclose(outcome.model(data), net(data), atol=1e-4)
    # W_:,s + 1.5 W_:,u, from the closed form
    expected = net[2].weight[:, :4] + 1.5 * net[2].weight[:, 4:]
    assert torch.allclose(dict(outcome.model.named_parameters())["2.weight"], expected, atol=1e-3)


def test_units_behind_a_flatten_pass_each_position_on() -> None:
    net, data = chain(twins=False), images()
    with torch.no_grad():
        net[2].weight[3:], net[2].bias[3:] = 2 * net[2].weight[:3], 2 * net[2].bias[:3]
    it, plan = plan_without(net, "2:out", [3, 4, 5], data)
    outcome = prunus.realise(it, merged(it, plan), repair=None)
    assert torch.allclose(outcome.model(data), net(data), atol=1e-4)


def test_a_constant_input_goes_into_the_bias() -> None:
    net, data = chain(twins=False), images()
    with torch.no_grad():
        net[2].weight[5], net[2].bias[5] = 0.0, 3.0
    it, plan = plan_without(net, "2:out", [5], data)
    outcome = prunus.realise(it, merged(it, plan), repair=None)
    assert torch.allclose(outcome.model(data), net(data), atol=1e-4)


def test_undo_gives_the_shares_back() -> None:
    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [1, 4, 5, 7], data)
    outcome = prunus.realise(it, merged(it, plan), repair=None)
    for name, value in outcome.undo().state_dict().items():
        assert torch.allclose(value, net.state_dict()[name], atol=1e-5), name
    zeroed = outcome.undo(fill="zero")
    assert torch.allclose(zeroed(data), outcome.model(data), atol=1e-5)


def test_a_plan_keeps_its_merges_in_a_folder(tmp_path: Path) -> None:
    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [4, 5, 6, 7], data)
    made = merged(it, plan)
    assert made != plan
    made.save(tmp_path / "plan")
    read = Plan.load(tmp_path / "plan")
    assert read == made
    assert torch.equal(prunus.apply(net, read, data[:2]).model(data), prunus.apply(net, made, data[:2]).model(data))
    plan.save(tmp_path / "plan")
    assert not (tmp_path / "plan" / SUBSTITUTES).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(dim=2), "is on dim 2; allowed: 0 or 1"),
        (lambda e: e.update(shares=3), "and plan.json says 3"),
        (lambda e: e.update(tensor="3.weight"), "merges inputs of '3.weight', which this model does not have"),
        (
            lambda e: e.update(tensor="0.weight", bias="0.bias"),
            r"merges 8 inputs of '0.weight', which has shape \(8, 3, 3, 3\)",
        ),
        (lambda e: e.update(bias=""), "8 means; allowed: 8, or none without a bias"),
        (lambda e: e.update(more=1), "more"),
    ],
)
def test_a_folder_whose_merges_do_not_fit_is_refused(tmp_path: Path, change: object, message: str) -> None:
    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [4, 5, 6, 7], data)
    merged(it, plan).save(tmp_path / "plan")
    path = tmp_path / "plan" / "plan.json"
    text = json.loads(path.read_text())
    change(text["merges"][0])  # type: ignore[operator]
    path.write_text(json.dumps(text))
    with pytest.raises(PlanError, match=message):
        prunus.apply(net, Plan.load(tmp_path / "plan"), data[:2])


def test_a_folder_without_its_numbers_is_refused(tmp_path: Path) -> None:
    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [4, 5, 6, 7], data)
    merged(it, plan).save(tmp_path / "plan")
    (tmp_path / "plan" / SUBSTITUTES).unlink()
    with pytest.raises(PlanError, match=r"does not hold the merges that plan\.json names"):
        Plan.load(tmp_path / "plan")


def test_a_unit_that_an_edit_brings_back_passes_nothing_on() -> None:
    from prunus.analysis.review import settle

    net, data = chain(), images()
    it, plan = plan_without(net, "0:out", [4, 5, 6, 7], data)
    made = merged(it, plan)
    axes = {"0:out": np.array([True] * 4 + [True, True, False, False])}
    edited = settle(prunus.Plan(made.fingerprint, axes, made.keep, merges=made.merges), it.coupling).plan
    small = prunus.realise(it, edited, repair=None).model
    assert torch.allclose(small(data), net(data), atol=1e-4)


def test_a_weight_takes_over_one_whose_input_is_nearly_equal() -> None:
    net, data = chain(), images()
    it = prunus.analyse(net, data[:2], data=data)
    plans = [it.plan({"params": 0.8}, method="redundant-weights", merge=merge) for merge in (True, False)]
    assert all(np.array_equal(plans[0].masks[n], plans[1].masks[n]) for n in plans[1].masks)
    assert plans[0].merges
    assert not plans[1].merges
    losses = [(prunus.realise(it, plan, repair=None).model(data) - net(data)).square().mean() for plan in plans]
    assert losses[0] < 0.2 * losses[1]
    mask = plans[0].masks["2.weight"]
    assert (mask[:, :4] | mask[:, 4:]).all()  # of each pair one stays


def test_pairs_are_disjoint_and_close() -> None:
    rows = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.1, 0.0], [-1.0, -1.9, 0.0], [0.0, 0.0, 1.0]]).double()
    assert paired_inputs(rows @ rows.T) == [(0, 1)]


@pytest.mark.parametrize("method", ["redundancy", "units-redundancy"])
def test_methods_of_redundancy_merge_unless_told_not_to(method: str) -> None:
    net, data = chain(), images()
    it = prunus.analyse(net, data[:2], data=[(data, torch.randint(4, (48,)))])
    assert it.plan({"params": 0.6}, method=method).merges
    assert not it.plan({"params": 0.6}, method=method, merge=False).merges
    assert not it.plan({"params": 0.6}, method="magnitude").merges
    assert it.plan({"params": 0.6}, method="magnitude", merge=True).merges
    counted = it.plan({"units": 0.5}, criterion="magnitude", merge=True)
    assert counted.merges
    assert counted.settings["merge"] is True


def test_merging_needs_data_and_weights_of_the_original() -> None:
    net, data = chain(), images()
    with pytest.raises(OptionError, match="merge is True, which fits shares on data, and there are none"):
        prunus.analyse(net, data[:2]).plan({"params": 0.6}, merge=True)
    with pytest.raises(OptionError, match="merge is True beside stages"):
        Request.of({"params": 0.5}, {"merge": True, "stages": [{"level": "units"}]})
    with pytest.raises(OptionError, match="merge is True beside method 'movement'"):
        Request.of({"params": 0.5}, {"merge": True, "method": "movement"})
    with pytest.raises(OptionError, match="merge is 1"):
        Request.of({"params": 0.5}, {"merge": 1})
