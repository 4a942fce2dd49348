"""What every enrolled pruning method promises, on a briefly trained network: the budget, the cut, the same again."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch

from factories_analysis import planned_by
from factories_digits import fresh_subject, trained
from factories_states import snapshot
from prunus.analysis import Analysis
from prunus.budget import Bound
from prunus.errors import BudgetError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.measurement.price import cost_model
from prunus.methods import METHODS, Method
from prunus.plans import Plan
from prunus.surgery.cut import operate
from prunus.surgery.verify import verify

KEPT = (0.5, 0.3)
# The pattern, not the budget, says how much stays: norms and biases come on top.
PATTERNED = {"two-four": 0.02, "sparsegpt-two-four": 0.02, "wanda-two-four": 0.02}
# Those for small networks alone refuse this one, and have tests of their own.
NAMES = [name for name in METHODS.names() if METHODS.get(name).most_units is None]


def methods(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for each method; all tests of one method in one process, which plans once for all of them."""
    return pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names])


every = methods(NAMES)
each_share = pytest.mark.parametrize("kept", KEPT)


@functools.cache
def shared() -> Analysis:
    return fresh_subject()


@functools.cache
def planned(name: str, kept: float) -> Plan:
    return planned_by(name, shared(), kept)


def member(name: str, kept: float) -> Method:
    found = METHODS.get(name)
    if found.only_kept is not None and kept not in found.only_kept:
        pytest.skip(f"{name} is defined at {found.only_kept} only")
    return found


def masked_away(plan: Plan) -> int:
    """Count the weights that the masks take from what the cut leaves."""
    gone = 0
    for name, mask in plan.masks.items():
        for dim, index in plan.keep.get(name, {}).items():
            mask = np.take(mask, index, dim)
        gone += int((~mask).sum())
    return gone


@every
@each_share
def test_the_budget_is_met_from_just_below(name: str, kept: float) -> None:
    member(name, kept)
    plan, subject = planned(name, kept), shared()
    assert plan.before == subject.cost.price()
    spent = plan.after.params - masked_away(plan)
    allowed = kept * subject.cost.price().params
    assert spent <= allowed * (1 + PATTERNED.get(name, 0.0))
    assert spent >= 0.95 * allowed


@methods(m for m in NAMES if METHODS.get(m).level != "weight")
def test_a_budget_of_macs_is_met_too(name: str) -> None:
    subject = shared().in_metric("macs")
    plan, whole = planned_by(name, subject, 0.5), subject.cost.price().macs_forward
    assert 0.85 * whole <= 2 * plan.after.macs_forward <= whole
    assert not plan.masks


@methods(["importance", "window-strip", "integrated", "multi-scale", "modular"])
def test_a_budget_of_bytes_counts_masked_weights_as_they_are_stored(name: str) -> None:
    subject = shared().in_metric("bytes")
    plan, whole = planned_by(name, subject, 0.3), subject.cost.price().param_bytes
    stored = plan.after.param_bytes - 4 * masked_away(plan)
    for tensor, mask in plan.masks.items():
        left = mask
        for dim, index in plan.keep.get(tensor, {}).items():
            left = np.take(left, index, dim)
        stored += math.ceil(left.size / 8)
    assert 0.95 * 0.3 * whole <= stored <= 0.3 * whole


@pytest.mark.parametrize("metric", ["macs", "latency_ms"])
def test_masks_save_neither_macs_nor_time(metric: str) -> None:
    subject = replace(shared(), metric=metric, cost=replace(shared().cost, fixed_fs=10**12))
    with pytest.raises(BudgetError, match="zeros change neither MACs nor time"):
        planned_by("importance", subject, 0.5)


def test_a_person_s_bounds_hold_for_methods() -> None:
    axis = next(a for a, x in shared().coupling.axes.items() if x.size >= 16)
    for bound, low, high in ((Bound(frozen=True), 1.0, 1.0), (Bound(floor=0.75), 0.75, 1.0), (Bound(forced=8), 0, 0)):
        subject = shared().in_metric("params", {axis: bound})
        size = subject.coupling.axes[axis].size
        for name in ("sensitivity", "tree-knapsack", "layer-wise", "modular"):
            plan = planned_by(name, subject, 0.6)
            kept = int(plan.axes[axis].sum()) if axis in plan.axes else size
            assert kept == 8 if bound.forced else low * size <= kept <= high * size, (name, bound, kept)


@every
@each_share
def test_the_cut_is_proved_and_counted(name: str, kept: float) -> None:
    member(name, kept)
    plan, subject = planned(name, kept), shared()
    small, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    check = verify(subject.model, small, subject.coupling, plan, subject.example_inputs)
    assert check.error < 1e-8
    assert check.change > 1e-3
    assert cost_model(couple(capture(small, subject.example_inputs))).price() == plan.after
    zeros = sum(int((p == 0).sum()) for p in small.parameters() if p.dim() > 1)
    assert zeros >= masked_away(plan)
    assert small(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@methods(n for n in METHODS if METHODS.get(n).level == "weight" and n not in PATTERNED)
@each_share
def test_weight_methods_keep_exactly_what_they_may(name: str, kept: float) -> None:
    plan, total = planned(name, kept), shared().cost.price().params
    window = {"window-tile": 16, "window-kernel": 64}.get(name, 1)
    assert 0 <= int(kept * total) - (total - masked_away(plan)) < window
    assert not plan.axes
    assert plan.after == plan.before


def test_two_of_four_consecutive_inputs_stay() -> None:
    patterned = 0
    for name, mask in planned("two-four", 0.5).masks.items():
        if mask.shape[1] % 4 == 0:
            patterned += 1
            assert (np.moveaxis(mask, 1, -1).reshape(-1, 4).sum(-1) == 2).all(), name
    assert patterned > 10


@every
def test_less_budget_never_keeps_more(name: str) -> None:
    if METHODS.get(name).only_kept is not None:
        pytest.skip("defined at one share only")
    most, least = (planned(name, kept) for kept in KEPT)
    assert least.after.params - masked_away(least) < most.after.params - masked_away(most)


@every
def test_the_same_seed_gives_the_same_plan_and_the_model_stays(name: str) -> None:
    model = trained()
    before = snapshot(model)
    assert planned_by(name, fresh_subject(), 0.5) == planned(name, 0.5)
    after = snapshot(model)
    # Methods draw numbers for training steps: only the state of the generator may differ.
    assert {k: v for k, v in after.items() if k != "random"} == {k: v for k, v in before.items() if k != "random"}


@every
def test_held_axes_are_not_touched(name: str) -> None:
    held = frozenset(list(shared().coupling.axes)[::3])
    plan = planned_by(name, fresh_subject(held=held), 0.7 if METHODS.get(name).only_kept is None else 0.5)
    assert not held & plan.axes.keys()
    touched = {m.tensor for axis in held for m in shared().coupling.axes[axis].members}
    assert not touched & plan.masks.keys()


@every
def test_plans_tell_why(name: str) -> None:
    plan = planned(name, 0.5)
    assert plan.decisions
    for decision in plan.decisions:
        assert decision.reason
        assert 0 < decision.removed <= decision.total
