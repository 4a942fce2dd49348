"""The oracle against every possibility, its refusals, and the order that criteria should come in."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from factories_analysis import analysis_of, planned_by
from factories_digits import digits, fresh_subject
from prunus.analysis import Analysis
from prunus.budget import Bound
from prunus.data.splits import Split
from prunus.errors import BudgetError, OptionError
from prunus.methods.masked_run import Replay
from prunus.methods.scored_units import unit_plan
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import verify
from prunus.training import TrainingOptions, finetune_

KEPT = 0.5


@functools.cache
def small() -> Analysis:
    """Two hidden layers of sixteen units that know the digits well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))
    finetune_(model, digits().train, TrainingOptions(300, 1e-2), seed=0)
    calibration = Split(*next(iter(digits().train.batches(512))), "calibration")
    return analysis_of(model.eval(), torch.zeros(2, 1, 8, 8), calibration, digits().selection)


@functools.cache
def oracle_plan() -> Plan:
    return planned_by("oracle", small(), KEPT)


def loss_of(plan: Plan, data: Split | None = None) -> float:
    return Replay(small()).loss(data or small().selection, plan)


def test_the_first_removal_is_the_cheapest_of_all() -> None:
    subject = small()
    start, *rest = oracle_plan().settings["losses"]
    rises = {}
    for axis, found in subject.coupling.axes.items():
        for unit in range(found.size):
            keep = {axis: np.arange(found.size) != unit}
            plan = Plan(fingerprint(subject.coupling.graph), keep, subject.coupling.tensor_masks(keep))
            model, _ = cut_with_record(subject.model, subject.coupling, plan, subject.example_inputs)
            x, y = next(iter(subject.selection.batches(64)))
            with torch.no_grad():
                loss = float(subject.loss(model(x), y))
            saved = subject.cost.price().params - subject.cost.price(keep).params
            rises[loss] = (loss - start) / saved if loss > start else (loss - start) * saved
    best = min(rises, key=lambda loss: rises[loss])
    assert rest[0] == pytest.approx(best, rel=1e-5)


def test_it_meets_the_budget_and_is_proved() -> None:
    subject, plan = small(), oracle_plan()
    allowed = KEPT * subject.cost.price().params
    assert 0.9 * allowed <= plan.after.params <= allowed
    model, _ = cut_with_record(subject.model, subject.coupling, plan, subject.example_inputs)
    assert verify(subject.model, model, subject.coupling, plan, subject.example_inputs).error < 1e-8
    assert loss_of(plan) == pytest.approx(plan.settings["losses"][-1])
    assert len(plan.settings["losses"]) == 1 + sum(int((~mask).sum()) for mask in plan.axes.values())


def test_criteria_come_in_the_expected_order() -> None:
    """Chance loses most; nothing clearly beats the true loss where that was looked at. Greedy, it is no bound."""
    x, y = next(iter(digits().test.batches(300)))
    unseen = Split(x, y, "test")
    limits = small().limits(KEPT)
    drawn = (unit_plan(replace(small(), seed=s, memo={}), limits, "random") for s in range(8))
    chance = [loss_of(plan, unseen) for plan in drawn]
    oracles = loss_of(oracle_plan())
    for name in ("fisher", "taylor-sample", "taylor", "sensitivity", "magnitude", "fpgm", "redundancy"):
        plan = unit_plan(small(), limits, name)
        assert loss_of(plan, unseen) < np.median(chance), name
        assert loss_of(plan) > 0.9 * oracles, name
    assert loss_of(oracle_plan(), unseen) < min(chance)


def test_large_networks_and_steps_of_several_units_are_refused() -> None:
    with pytest.raises(BudgetError, match="accepts at most 256 units; this network has"):
        planned_by("oracle", fresh_subject(), KEPT)
    axis = next(iter(small().coupling.axes))
    with pytest.raises(OptionError, match="one unit at a time"):
        planned_by("oracle", replace(small(), bounds={axis: Bound(round_to=8)}), KEPT)


def test_a_floor_is_kept() -> None:
    axis = list(small().coupling.axes)[-1]
    plan = planned_by("oracle", replace(small(), bounds={axis: Bound(floor=15)}), KEPT)
    assert plan.axes.get(axis, np.ones(16, bool)).sum() >= 15
