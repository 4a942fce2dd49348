"""Joint pruning: three kinds in one training under one budget, divided and ordered as the settings say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from factories_training import blocks, fit, samples
from prunus.errors import BudgetError, OptionError
from prunus.pruner import Pruner
from prunus.pruner.strategies.joint import JointSettings
from prunus.surgery.cut import cut_with_record

DATA = samples()


def pruned(kept: float = 0.3, steps: int = 30, **options: Any) -> tuple[nn.Module, Pruner]:
    model = blocks()
    pruner = Pruner(model, {"kept": kept, "method": "joint", **options}, example_inputs=DATA.inputs[:4])
    fit(model, pruner, torch.optim.SGD(model.parameters(), lr=0.05), steps)
    return model, pruner


def test_all_three_kinds_go_and_the_budget_is_met_exactly() -> None:
    model, pruner = pruned(0.2)
    plan = pruner.plan()
    assert plan.drops
    assert any(mask.any() and not mask.all() for mask in plan.axes.values())
    assert plan.masked
    assert 0.17 * plan.before.params < plan.after.params - plan.masked <= int(0.2 * plan.before.params)
    assert {decision.level for decision in plan.decisions} == {"block", "unit", "weight"}
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    assert sum(p.numel() for p in model.parameters()) - zeros <= int(0.2 * plan.before.params)
    with torch.no_grad():
        before = model.eval()(DATA.inputs)
        small, _ = cut_with_record(model, pruner._scene.parts.coupling, plan, DATA.inputs[:4])
        torch.testing.assert_close(small.eval()(DATA.inputs), before, atol=1e-5, rtol=1e-4)


def test_shares_decide_how_much_each_kind_removes() -> None:
    def parts(shares: dict[str, float]) -> tuple[int, int, int]:
        _, pruner = pruned(0.3, settings={"shares": shares})
        plan = pruner.plan()
        units = sum(int((~mask).sum()) for mask in plan.axes.values() if mask.any())
        return len(plan.drops), units, plan.masked

    assert parts({"weights": 1})[:2] == (0, 0)
    drops, units, masked = parts({"units": 1})
    assert (drops, masked) == (0, 0)
    assert units > 0
    few, many = parts({"units": 1, "weights": 4}), parts({"units": 4, "weights": 1})
    assert few[1] < many[1]
    assert few[2] > many[2]


def test_units_leave_as_much_as_their_share_says() -> None:
    _, pruner = pruned(0.25, settings={"shares": {"units": 1, "weights": 1}})
    after = pruner.plan().after.params / pruner.plan().before.params
    assert 0.45 < after <= 0.5


@pytest.mark.parametrize("order", [["units", "weights"], ["weights", "units"]])
def test_an_order_is_kept_in_time(order: list[str]) -> None:
    model = blocks()
    settings = {"shares": {"units": 1, "weights": 1}, "order": order}
    options = {"kept": 0.25, "method": "joint", "schedule": "linear", "every": 1, "settings": settings, "end_step": 20}
    pruner = Pruner(model, options, example_inputs=DATA.inputs[:4])
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.05), []
    pruner.train_begin(optimizer, 22)
    for _ in range(22):
        pruner.step_begin()
        plan = pruner.plan()
        seen.append((bool(plan.axes), plan.masked > 0))
        nn.functional.cross_entropy(model(DATA.inputs), DATA.targets).backward()
        pruner.before_optimizer_step()
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
    # A few weights go with the units: widths are whole numbers, and weights meet the schedule exactly.
    first = next(kinds for kinds in seen if any(kinds))
    assert first[0] if order[0] == "units" else first == (False, True)
    assert seen[-1] == (True, True)


def test_the_parts_of_a_reduction_add_up_to_it() -> None:
    for order in ("together", ("units", "structure", "weights")):
        settings = JointSettings({"structure": 1, "units": 2, "weights": 1}, order)
        for now in (0.0, 0.4, 1.1, 2.0):
            assert sum(settings.reductions(2.0, now).values()) == pytest.approx(now)
        assert settings.reductions(2.0, 2.0) == pytest.approx({"structure": 0.5, "units": 1.0, "weights": 0.5})


def test_a_cut_in_training_keeps_the_weight_masks() -> None:
    model, pruner = pruned(0.25, cut="final", settings={"shares": {"units": 1, "weights": 1}})
    assert len(pruner.plans) == 1
    assert pruner.plans[0].masked
    assert pruner.kept <= 0.25
    assert sum(int((~mask).sum()) for mask in pruner.masks.values()) == pruner.plans[0].masked
    assert all(not bool(model.get_parameter(name)[~mask].any()) for name, mask in pruner.masks.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shares": {}}, "'shares' of 'joint' is"),
        ({"shares": {"unit": 1}}, "names 'unit'. Did you mean 'units'"),
        ({"shares": {"units": -1}}, "gives units -1"),
        ({"shares": {"units": 0}}, "gives every kind 0"),
        ({"order": ["units"]}, "allowed: together, or a list of structure, units, weights, each once"),
        ({"order": "units"}, "'order' of 'joint' is 'units'"),
    ],
)
def test_settings_are_strict(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        pruned(settings=settings)


def test_units_that_cannot_make_their_share_are_refused_before_training() -> None:
    with pytest.raises(BudgetError, match="give weights a larger share"):
        pruned(0.02, settings={"shares": {"units": 1}})
    assert math.isclose(sum(JointSettings().reductions(1.0, 1.0).values()), 1.0)
