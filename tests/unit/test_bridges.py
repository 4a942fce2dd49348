"""Bridges: layers of a chain and modules of any network replaced by identities, folded maps and fitted layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from prunus.analysis import Analysis
from prunus.errors import BudgetError, OptionError, PlanError, UsageError
from prunus.methods.bridge_fit import Run, fitted
from prunus.methods.chain_depth import chain_runs
from prunus.plans import Plan
from prunus.surgery.bridging import bridged


class Chain(nn.Module):
    """Five convolutions and two linear layers behind each other, activations in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1 if i == 0 else 8, 8, 3, 2 if i == 2 else 1, 1) for i in range(5)])
        self.fc1, self.fc2 = nn.Linear(8 * 9, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(240, 1, 6, 6, generator=generator)
    y = (x.mean((1, 2, 3)) * 6).clamp(-1, 1).round().long() + 1
    return [(x[i : i + 60], y[i : i + 60]) for i in range(0, 240, 60)]


@cache
def trained() -> Chain:
    torch.manual_seed(0)
    net, data = Chain(), images()
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    for step in range(60):
        x, y = data[step % 4]
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return net.eval()


@cache
def subject() -> Analysis:
    return prunus.analyse(trained(), images()[0][0][:2], data=images())


@cache
def four_layers() -> prunus.Outcome:
    return prunus.realise(subject(), subject().plan({"modules": 4}, method="chain-depth"), repair=None)


def loss(model: nn.Module) -> float:
    return sum(float(nn.functional.cross_entropy(model(x), y).detach()) for x, y in images()) / 4


def test_a_chain_loses_whole_layers_and_the_cut_is_proved() -> None:
    outcome = four_layers()
    assert outcome.check is not None
    assert outcome.check.ok
    layers = [m for m in outcome.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4
    assert type(outcome.model) is Chain
    assert outcome.after.params == sum(p.numel() for p in outcome.model.parameters())
    assert outcome.before.params == sum(p.numel() for p in trained().parameters())
    reference = bridged(trained(), outcome.plan.bridges)
    assert torch.allclose(reference(images()[0][0]), outcome.model(images()[0][0]), atol=1e-5)


def test_the_chain_is_trained_on() -> None:
    before = loss(four_layers().model)
    outcome = prunus.realise(subject(), four_layers().plan, repair=None, recover={"steps": 40})
    assert loss(outcome.model) < before
    assert outcome.recovery is not None


def test_a_budget_of_macs_takes_layers_and_trims_units() -> None:
    plan = subject().plan({"macs": 0.5}, method="chain-depth")
    assert plan.bridges
    assert plan.after.macs_forward <= 0.5 * plan.before.macs_forward
    assert all(d.saves_params for d in plan.decisions if d.level == "structure")


def test_a_plan_keeps_its_bridges_in_a_folder(tmp_path: Path) -> None:
    plan, x = four_layers().plan, images()[0][0]
    plan.save(tmp_path / "plan")
    read = Plan.load(tmp_path / "plan")
    assert read == plan
    again = prunus.apply(trained(), read, x[:2])
    assert again.check is not None
    assert again.check.ok
    assert torch.equal(again.model(x), four_layers().model(x))
    assert prunus.verify(again).ok


def test_a_checkpoint_is_loaded_into_a_fresh_instance(tmp_path: Path) -> None:
    x = images()[0][0]
    four_layers().save(tmp_path / "small")
    assert torch.equal(prunus.load(tmp_path / "small", Chain())(x), four_layers().model(x))


def test_undo_puts_the_layers_back() -> None:
    for name, value in four_layers().undo().state_dict().items():
        assert torch.equal(value, trained().state_dict()[name]), name
    with pytest.raises(UsageError, match="with zeros in place of the removed layers"):
        four_layers().undo(fill="zero")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(path="fc9"), "The plan bridges 'fc9', which this Chain does not have"),
        (lambda e: e.update(kind="Flatten"), "is a 'Flatten'; allowed: Bypass"),
        (lambda e: e.update(sizes={"strides": 1}), "do not fit a"),
        (lambda e: e.update(sizes={"stride": 10**9}), "allowed: -1 to"),
    ],
)
def test_a_folder_whose_bridges_do_not_fit_is_refused(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    four_layers().plan.save(tmp_path / "plan")
    path = tmp_path / "plan" / "plan.json"
    text = json.loads(path.read_text())
    change(text["bridges"][0])
    path.write_text(json.dumps(text))
    with pytest.raises(PlanError, match=message):
        prunus.apply(trained(), Plan.load(tmp_path / "plan"), images()[0][0][:2])


def test_two_linear_maps_with_nothing_between_become_their_product() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 9), nn.Dropout(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    x = torch.randn(64, 5)
    it = prunus.analyse(net, x[:2], data=[(x, torch.randint(3, (64,)))])
    folded = next(run for run in chain_runs(it) if "two linear maps" in run.reason)
    assert folded.ready is not None
    assert torch.allclose(bridged(net, [folded.ready])(x), net(x), atol=1e-5)
    convs = nn.Sequential(
        nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    ).eval()
    images = torch.randn(8, 2, 4, 4)
    it = prunus.analyse(convs, images[:2], data=[(images, torch.randint(3, (8,)))])
    folded = next(run for run in chain_runs(it) if "two linear maps" in run.reason)
    assert folded.ready is not None
    assert torch.allclose(bridged(convs, [folded.ready])(images), convs(images), atol=1e-5)


def test_a_fit_finds_the_linear_map_that_is_there() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 3, 3, 2, 1)).eval()
    x = torch.randn(200, 2, 9, 9)
    run = Run("1", ("0",), "1", "Conv2d", (5, 5))
    data = prunus.analyse(net, x[:2], data=[(x, torch.zeros(200, dtype=torch.int64))]).calibration
    bridge = fitted(net, net, run, data)
    assert bridge is not None
    assert bridge.sizes == {"stride": 2, "padding": 2}
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # zeros around the picture enter each map on its own
    assert (bridged(net, [bridge])(x) - net(x))[inner].norm() < 0.15 * net(x)[inner].norm()


class Mixed(nn.Module):
    """Two blocks, of which one halves the picture and doubles the width, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
        self.two = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.rnn, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.two(self.one(x))
        x, _ = self.rnn(x.flatten(2).mT)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "number", "kinds"),
    [("identity", 1, {"Bypass"}), ("pooling", 1, {"Bypass", "Pool"}), ("projection", 1, {"Conv2d", "Linear", "First"})],
)
def test_modules_of_any_network_are_reconnected(how: str, number: int, kinds: set[str]) -> None:
    torch.manual_seed(3)
    net, x = Mixed().eval(), torch.randn(64, 4, 6, 6)
    it = prunus.analyse(net, x[:2], data=[(x, torch.randint(3, (64,)))])
    plan = it.plan({"modules": number}, method="modular", reconnect=how)
    outcome = prunus.realise(it, plan, repair=None)
    assert outcome.check is not None
    assert outcome.check.ok
    assert len(plan.bridges) == 2
    assert {type(outcome.model.get_submodule(bridge.path)).__name__ for bridge in plan.bridges} <= kinds
    assert plan.settings["counted"] == {"kind": "modules", "kept": number, "of": 3}
    assert plan.settings["reconnect"] == how


def test_what_cannot_be_bridged_is_refused_in_one_line() -> None:
    with pytest.raises(BudgetError, match="modules"):
        subject().plan({"modules": 7}, method="chain-depth")
    with pytest.raises(OptionError, match="reconnect is 'projecton'"):
        subject().plan({"params": 0.5}, method="modular", reconnect="projecton")
    with pytest.raises(OptionError, match="method 'depth' takes no reconnect"):
        subject().plan({"params": 0.5}, method="depth", reconnect="auto")
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    bare = prunus.analyse(net, torch.randn(2, 4), data=[(torch.randn(8, 4), torch.arange(8) % 3)])
    with pytest.raises(BudgetError, match="this network has no module that a bridge can replace; at least 2 are"):
        bare.plan({"modules": 0.5}, method="modular", reconnect="auto")
    block = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    one = prunus.analyse(
        nn.Sequential(block, nn.Linear(4, 3)).eval(), torch.randn(2, 4), data=[(torch.randn(8, 4), torch.arange(8) % 3)]
    )
    with pytest.raises(BudgetError, match="this network has 1 module that a bridge can replace; at least 2 are"):
        one.plan({"modules": 0.5}, method="modular", reconnect="auto")
    with pytest.raises(BudgetError, match="compares scores, and layers are ranked by the loss without them"):
        subject().plan({"threshold": 0.1}, method="chain-depth")


def test_a_stored_plan_is_taken_as_it_is_and_its_budget_is_that_of_the_dense_network() -> None:
    from prunus.analysis.review import settle

    plan = subject().plan({"params": 0.6}, method="chain-depth")
    assert plan.bridges
    settled = settle(plan, subject().for_plan(plan).coupling)
    assert settled.edits == ()
    assert settled.plan == plan


@pytest.mark.parametrize("budget", [{"params": 0.6}, {"macs": 0.5}])
def test_an_edited_plan_keeps_to_its_share_of_the_dense_network(budget: dict[str, float], tmp_path: Path) -> None:
    from prunus.analysis.review import settle

    subject().plan(budget, method="chain-depth").save(tmp_path / "plan")
    plan = Plan.load(tmp_path / "plan")
    assert plan.before == subject().cost.price()
    axis = next(axis for axis, mask in plan.axes.items() if mask.sum() > 1)
    mask = plan.axes[axis].copy()
    mask[mask.nonzero()[0][0]] = False
    settled = settle(replace(plan, axes={**plan.axes, axis: mask}), subject().for_plan(plan).coupling)
    assert len(settled.edits) == 1
    assert settled.plan.before == plan.before


def test_calls_of_a_bridged_network_are_those_of_its_reference() -> None:
    table = prunus.check_calls(four_layers(), ["eval", "prunus.save, load", "state_dict names", "forward hooks"])
    assert table.ok, str(table)


def test_a_plan_with_fewer_bridges_than_it_was_written_with_is_refused(tmp_path: Path) -> None:
    plan = four_layers().plan
    assert len(plan.bridges) > 1
    folder = tmp_path / "plan"
    plan.save(folder)
    path = folder / "plan.json"
    text = json.loads(path.read_text())
    for left in (text["bridges"][:1], []):
        path.write_text(json.dumps({**text, "bridges": left}))
        with pytest.raises(
            PlanError, match=f"names {len(left)} of the {len(plan.bridges)} bridges .* cannot be edited"
        ):
            Plan.load(folder)
    with pytest.raises(PlanError, match=r"Bridges cannot be edited; plan again for this model\."):
        subject().for_plan(replace(plan, bridges=plan.bridges[:1]))


def test_reports_name_the_replaced_layers() -> None:
    from prunus.report.plan_table import plan_lines

    plan = four_layers().plan
    lines = [line for line in str(four_layers()).splitlines() if line.startswith("layers replaced: ")]
    assert len(lines) == 1
    assert all(bridge.path in lines[0] for bridge in plan.bridges)
    assert lines[0] in list(plan_lines(plan))
    assert not any("replaced" in line for line in plan_lines(replace(plan, bridges=())))
