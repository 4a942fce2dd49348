"""What every enrolled method promises on a briefly trained network: the shipped suite; and what some promise beside."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from factories_analysis import planned_by
from factories_digits import fresh_subject
from factories_suites import suites
from prunus.analysis import Analysis
from prunus.budget import Bound
from prunus.errors import BudgetError
from prunus.methods import METHODS
from prunus.plans import Plan
from prunus.testing import method_suite

KEPT = (0.5, 0.3)
# The pattern, not the budget, says how much stays: norms and biases come on top.
PATTERNED = {"two-four": 0.02, "sparsegpt-two-four": 0.02, "wanda-two-four": 0.02}
# Those for small networks alone refuse this one, and have tests of their own.
NAMES = [name for name in METHODS.names() if METHODS.get(name).most_units is None]


SUITES = suites(NAMES, method_suite, {name: {"over": over} for name, over in PATTERNED.items()}, analysis=fresh_subject)
globals().update(SUITES)


def planned(name: str, kept: float) -> Plan:
    """Return the plan that the suite of a method made."""
    plan: Plan = SUITES[f"Test_{name}"]().plan(kept)
    return plan


def methods(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for each method; all tests of one method in one process, which plans once for all of them."""
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.xdist_group(f"method_suite-{n}")) for n in names]
    )


each_share = pytest.mark.parametrize("kept", KEPT)


@functools.cache
def shared() -> Analysis:
    return fresh_subject()


@methods(["importance", "window-strip", "integrated", "multi-scale", "modular"])
def test_a_budget_of_bytes_counts_masked_weights_as_they_are_stored(name: str) -> None:
    subject = shared().in_metric("bytes")
    plan, whole = planned_by(name, subject, 0.3), subject.cost.price().param_bytes
    stored = plan.after.param_bytes - 4 * plan.masked
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


@methods(n for n in METHODS if METHODS.get(n).level == "weight" and n not in PATTERNED)
@each_share
def test_weight_methods_keep_exactly_what_they_may(name: str, kept: float) -> None:
    plan, total = planned(name, kept), shared().cost.price().params
    window = {"window-tile": 16, "window-kernel": 64}.get(name, 1)
    assert 0 <= int(kept * total) - (total - plan.masked) < window
    assert not plan.axes
    assert plan.after == plan.before


def test_two_of_four_consecutive_inputs_stay() -> None:
    patterned = 0
    for name, mask in planned("two-four", 0.5).masks.items():
        if mask.shape[1] % 4 == 0:
            patterned += 1
            assert (np.moveaxis(mask, 1, -1).reshape(-1, 4).sum(-1) == 2).all(), name
    assert patterned > 10
