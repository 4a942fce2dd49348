"""What the methods are made of: enrolment, weight counts, the sensitivity scan, the division of a budget by scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from factories_analysis import analysis_of, planned_by
from factories_digits import fresh_subject
from prunus.analysis import Analysis
from prunus.analysis.score import cross_entropy
from prunus.errors import BudgetError, OptionError
from prunus.experiments.workloads import Split
from prunus.methods import METHODS
from prunus.methods.layer_wise import FRACTIONS, Scan, layer_wise_keep, masked_loss, sensitivity_scan
from prunus.methods.multi_scale import Split as Division
from prunus.methods.multi_scale import plan_split, splits
from prunus.methods.scored_units import unit_plan, unit_scores
from prunus.methods.true_loss import loss_of
from prunus.methods.weights import maskable, weights_to_keep


class Gears(nn.Module):
    """Two hidden layers; the second hardly matters, so that a layer-wise method must find it out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, width), nn.Linear(6, width), nn.Linear(2 * width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.first(x).relu(), 1e-3 * self.second(x).relu()], -1))


def gears(**changes: object) -> Analysis:
    torch.manual_seed(0)
    model = Gears()
    inputs = torch.randn(40, 6)
    with torch.no_grad():
        model.head.weight *= 8
        data = Split(inputs, model(inputs).argmax(-1))
    return analysis_of(model, inputs[:2], data, data, **changes)  # type: ignore[arg-type]


def test_methods_are_enrolled_with_their_level() -> None:
    levels = {name: METHODS.get(name).level for name in METHODS}
    assert set(levels.values()) == {"weight", "neuron", "structure", "hierarchical", "baseline"}
    assert levels["two-four"] == "weight"
    assert METHODS.get("two-four").only_kept == (0.5,)
    assert [n for n in METHODS if METHODS.get(n).fresh_weights] == ["smaller-dense"]
    assert all(METHODS.get(n).description for n in METHODS)
    with pytest.raises(OptionError, match=r"Unknown method 'key_path'. Did you mean 'key-path'\?"):
        METHODS.get("key_path")


def test_limits_are_shares_of_the_parameters() -> None:
    subject = gears()
    assert subject.limit(0.5).value == int(0.5 * sum(p.numel() for p in subject.model.parameters()))


def test_what_was_measured_is_remembered() -> None:
    subject, calls = gears(), list[int]()
    for _ in range(2):
        assert subject.remember("answer", lambda: calls.append(1) or 42) == 42
    assert calls == [1]


def test_weights_to_keep_counts_what_cannot_be_masked() -> None:
    subject = gears()
    weights, total = maskable(subject), subject.cost.price().params
    biases = total - sum(w.numel() for w in weights.values())
    assert weights_to_keep(subject, weights, subject.limits(0.5)) == int(0.5 * total) - biases
    said = rf"params ≤ {int(0.1 * total)} is out of reach: {biases} of {total} cannot be masked"
    with pytest.raises(BudgetError, match=said):
        weights_to_keep(subject, weights, subject.limits(0.1))


def test_held_weights_are_not_masked() -> None:
    assert maskable(gears(held=frozenset({"second:out"}))).keys() == {"first.weight"}


def test_masked_loss_is_the_loss_of_the_masked_network() -> None:
    subject = gears()
    batches = list(subject.calibration.batches(16))
    keep = {"first:out": np.arange(16) % 2 == 0}
    masked = gears().model
    with torch.no_grad():
        masked.first.weight[1::2] = 0
        masked.first.bias[1::2] = 0
        expected = sum(float(cross_entropy(masked(x), y)) * len(y) for x, y in batches) / 40
    assert masked_loss(subject, keep, batches) == pytest.approx(expected, rel=1e-5)


def test_the_true_loss_leaves_every_module_in_its_own_mode() -> None:
    subject = gears()
    subject.model.train()
    subject.model.get_submodule("second").eval()
    masked_loss(subject, {}, list(subject.calibration.batches(16)))
    loss_of(subject, subject.model)
    assert [module.training for module in subject.model.modules()] == [True, True, False, True]


def test_the_scan_finds_what_matters() -> None:
    scan = sensitivity_scan(gears())
    for fractions, damage in scan.damage.values():
        assert tuple(fractions) == (*FRACTIONS, 1.0)
        assert (np.diff(damage) <= 0).all()
        assert damage[-1] == 0
    assert scan.damage["first:out"][1][0] > 10 * scan.damage["second:out"][1][0]


@pytest.mark.parametrize("name", ["layer-wise", "obs-units"])
def test_what_is_measured_of_axes_serves_those_that_hold_other_axes(name: str) -> None:
    subject = fresh_subject()
    first, second = list(subject.coupling.axes)[:2]
    for held in ({first}, {second}, set()):
        found = replace(subject, held=frozenset(held))
        plan = planned_by(name, found, 0.5)
        assert held.isdisjoint(plan.axes)
        assert plan.axes.keys() == planned_by(name, replace(found, memo={}), 0.5).axes.keys()


def test_damage_between_measurements_is_interpolated() -> None:
    scan = Scan({"a": (np.array([0.1, 0.5, 1.0]), np.array([4.0, 2.0, 0.0]))})
    assert scan.at("a", np.array([0.05, 0.1, 0.3, 0.75])).tolist() == [4.0, 4.0, 3.0, 1.0]


def test_layer_wise_cuts_where_it_hurts_least() -> None:
    subject = gears()
    keep = layer_wise_keep(subject, (subject.limit(0.6),))
    assert keep["second:out"].sum() < keep["first:out"].sum()
    assert subject.cost.price(keep).params <= subject.limit(0.6).value


def test_splits_multiply_to_the_kept_share() -> None:
    for kept in (0.1, 0.3, 0.5):
        found = splits(kept)
        assert len(found) >= 3
        assert all(s.blocks * s.units * s.weights == pytest.approx(kept) for s in found)
        assert all(0.08 <= s.weights <= 1 for s in found)
    assert str(Division(0.75, 0.7, 0.5)) == "blocks 75% × units 70% × weights 50%"


def test_each_scale_takes_its_part() -> None:
    subject = fresh_subject()
    total = subject.cost.price().params
    plan = plan_split(subject, Division(0.75, 0.7, 0.3 / 0.525), subject.limit(0.3))
    assert {d.level for d in plan.decisions} == {"block", "unit", "weight"}
    assert 0.3 * total < plan.after.params <= 0.75 * 0.7 * total + 1
    assert plan.settings["split"] == "blocks 75% × units 70% × weights 57%"


def test_a_division_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BudgetError, match="cannot be masked"):
        plan_split(gears(), Division(1.0, 1.0, 0.1), gears().limit(0.05))


def test_unit_scores_leave_held_axes_out() -> None:
    assert unit_scores(gears(held=frozenset({"first:out"})), "magnitude").keys() == {"second:out"}


def test_random_plans_follow_the_seed() -> None:
    plans = [unit_plan(gears(seed=s), gears().limits(0.5), "random") for s in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
