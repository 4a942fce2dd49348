"""A key path that the user gives, or that gradients give: everything beside it that can go goes."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import prunus
from prunus.analysis import Analysis
from prunus.errors import OptionError
from prunus.tree.given_path import above_gradient


class Ten(nn.Module):
    """Eight residual branches between a stem and a head: ten nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList([nn.Linear(6, 6) for _ in range(8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(x)  # type: ignore[no-any-return]


def subject() -> Analysis:
    torch.manual_seed(0)
    net = Ten().eval()
    with torch.no_grad():
        for i in (1, 4, 6):
            net.blocks[i].weight.mul_(0.01)  # type: ignore[operator, union-attr]
            net.blocks[i].bias.mul_(0.01)  # type: ignore[operator, union-attr]
    x = torch.randn(64, 4)
    return prunus.analyse(net, x[:2], data=[(x, torch.randint(3, (64,)))])


def test_a_network_without_branches_has_no_path_by_gradient() -> None:
    x = torch.randn(8, 4)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(OptionError, match="the network has no branch that it can do without"):
        prunus.plan(
            net,
            x[:2],
            budget={"params": 0.7},
            method="key-path",
            key_path={"gradient": 0.01},
            data=[(x, torch.randint(3, (8,)))],
        )


def test_everything_beside_a_given_path_goes() -> None:
    it = subject()
    path = ["stem", "blocks.0", "blocks.3", "blocks.7", "head"]
    plan = it.plan({"params": 0.9}, method="key-path", key_path=path)
    assert {drop.label for drop in plan.drops} == {f"blocks.{i}" for i in (1, 2, 4, 5, 6)}
    assert plan.settings["key_path"] == path
    outcome = prunus.realise(it, plan, repair=None)
    assert outcome.check is not None
    assert outcome.check.ok
    assert {d.reason for d in plan.decisions} == {"beside the given key path"}


def test_the_budget_trims_units_of_what_is_left() -> None:
    plan = subject().plan({"params": 0.2}, method="key-path", key_path=["stem", "blocks.0", "blocks.7", "head"])
    assert len(plan.drops) == 6
    assert plan.after.params <= 0.2 * plan.before.params


def test_small_gradients_leave_the_path() -> None:
    it = subject()
    plan = it.plan({"params": 0.95}, method="key-path", key_path={"gradient": 0.01})
    assert {"blocks.1", "blocks.4", "blocks.6"} <= {drop.label for drop in plan.drops}
    assert 3 <= len(plan.drops) < 8
    assert prunus.realise(it, plan, repair=None).check is not None


def test_the_threshold_falls_with_every_branch_that_is_taken() -> None:
    slopes = [("a", 1.0), ("b", 0.95), ("c", 0.7), ("d", 0.82)]
    assert above_gradient(slopes, 0.98, 0.9) == {"a", "b", "d"}  # 0.98, 0.882, 0.7938, 0.7938
    assert above_gradient(slopes, 0.98, 1.0) == {"a"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (["stem", "block.0"], r"names 'block\.0', which is no module or branch of this model"),
        (["head", "stem"], "key_path has a gap: nothing leads from 'head' to 'stem'"),
        (["stem", "blocks.5", "blocks.2"], r"nothing leads from 'blocks\.5' to 'blocks\.2'"),
        ([], r"key_path is \[\]; allowed: a list of modules"),
        ({"gradient": 0}, "key_path is"),
        ({"gradient": 1e9}, "of 8 branches 0 have .g. above it, so nothing is on the key path. Give less than"),
        ({"gradient": 1e-30}, "of 8 branches 8 have .g. above it, so every branch is on the key path. Give .* or more"),
    ],
)
def test_a_path_that_is_none_is_refused_in_one_line(path: object, message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        subject().plan({"params": 0.9}, method="key-path", key_path=path)
    assert "\n" not in str(caught.value)


def test_other_methods_take_no_path() -> None:
    with pytest.raises(OptionError, match="method 'depth' takes no key_path"):
        subject().plan({"params": 0.9}, method="depth", key_path=["stem"])


@pytest.mark.parametrize(
    ("settings", "stays"),
    [({"path": ["stem", "blocks.1", "blocks.4", "head"]}, {"blocks.1", "blocks.4"}), ({"threshold": 0.01}, None)],
)
def test_the_pruner_keeps_the_given_path_while_it_trains(settings: dict[str, object], stays: set[str] | None) -> None:
    it = subject()
    net, x = it.user_model, torch.randn(64, 4)
    options = {"kept": 0.5, "method": "key-path", "end_step": 6, "every": 2, "settings": settings}
    pruner = prunus.Pruner(net, options, example_inputs=x[:2])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    pruner.train_begin(optimizer, 8)
    for _ in range(8):
        pruner.step_begin()
        nn.functional.cross_entropy(net(x), torch.arange(64) % 3).backward()
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    dropped = {drop.label for drop in pruner.plan().drops}
    assert dropped
    assert stays is None or dropped.isdisjoint(stays)


def test_the_settings_of_the_strategy_are_checked() -> None:
    it = subject()
    for settings, message in (
        ({"path": "stem"}, "path is 'stem'; allowed: a list of modules"),
        ({"path": ["stem"], "threshold": 0.1}, "got path and threshold; give one of them"),
        ({"path": ["stm"]}, "names 'stm'"),
        ({"path": []}, r"path is \[\]; allowed: a list of modules"),
        ({"threshold": 0}, "threshold is 0; allowed: a number above 0"),
    ):
        with pytest.raises(OptionError, match=message):
            prunus.Pruner(
                it.user_model,
                {"kept": 0.5, "method": "key-path", "settings": settings},
                example_inputs=torch.randn(2, 4),
            )


@pytest.mark.parametrize(("threshold", "place"), [(1e9, "nothing is on"), (1e-30, "every branch is on")])
def test_the_pruner_refuses_a_threshold_that_divides_nothing(threshold: float, place: str) -> None:
    net, x = subject().user_model, torch.randn(64, 4)
    options = {"kept": 0.5, "method": "key-path", "end_step": 6, "every": 2, "settings": {"threshold": threshold}}
    pruner = prunus.Pruner(net, options, example_inputs=x[:2])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    pruner.train_begin(optimizer, 8)
    for _ in range(2):
        pruner.step_begin()
        nn.functional.cross_entropy(net(x), torch.arange(64) % 3).backward()
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    with pytest.raises(OptionError, match=f"threshold is .*: of 8 branches .* {place} the key path. Give"):
        pruner.step_begin()


class Short(nn.Module):
    """A block whose shortcut is a branch with weights beside its residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.short = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) + self.short(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("on", "gone"), [("block.short", "block"), ("block.b", "block.short")])
def test_a_path_over_a_shortcut_drops_the_branch_beside_it(on: str, gone: str) -> None:
    torch.manual_seed(0)
    layers = {"stem": nn.Linear(4, 6), "block": Short(), "head": nn.Linear(6, 3)}
    net, x = nn.Sequential(OrderedDict(layers)).eval(), torch.randn(64, 4)
    it = prunus.analyse(net, x[:2], data=[(x, torch.randint(3, (64,)))])
    plan = it.plan({"params": 0.9}, method="key-path", key_path=["stem", on, "head"])
    assert {decision.node for decision in plan.decisions} == {gone}
