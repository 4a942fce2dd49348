"""prune with data and no criterion: units by measured levels, without labels, and better for it."""

from __future__ import annotations

import pytest
import torch

import prunus
from factories_repair import distance, net, samples
from prunus.errors import OptionError

X, FRESH = samples(2, 9), samples(64, 77)


def test_data_alone_choose_units_by_measured_levels() -> None:
    model, data = net(), [samples(96)]
    measured = prunus.prune(model, X, budget={"macs": 0.5}, data=data, repair=None)
    assert measured.plan.settings["criterion"] == "obs-units"
    assert "scored by: obs-units" in str(measured)
    assert measured.after.macs_forward <= 0.5 * measured.before.macs_forward
    assert all(d.damage is not None and d.damage >= 0 for d in measured.plan.decisions)
    mended = [
        prunus.prune(model, X, budget={"macs": 0.5}, data=data, criterion=c, repair="refold").model
        for c in ("magnitude", None)
    ]
    assert distance(model, mended[1], FRESH) < distance(model, mended[0], FRESH)


def test_targets_are_not_looked_at() -> None:
    model, images = net(), samples(64)
    plans = [
        prunus.plan(model, X, budget={"macs": 0.5}, data=[(images, targets)])
        for targets in (torch.zeros(64), torch.full((64,), float("nan")))
    ]
    assert plans[0].axes.keys() == plans[1].axes.keys()
    assert all((plans[0].axes[a] == plans[1].axes[a]).all() for a in plans[0].axes)


def test_without_data_weights_decide() -> None:
    assert prunus.plan(net(), X, budget={"params": 0.5}).settings["criterion"] == "magnitude"


def test_an_allocator_that_was_named_shares_out_the_levels() -> None:
    plan = prunus.plan(net(), X, budget={"params": 0.5}, data=[samples(64)], allocator="uniform")
    shares = [mask.mean() for mask in plan.axes.values()]
    assert plan.settings["criterion"] == "obs-units"
    assert max(shares) - min(shares) < 0.35


def test_bounds_and_ignore_are_held() -> None:
    model = net()
    plan = prunus.plan(model, X, budget={"params": 0.6}, data=[samples(64)], ignore=["hidden"])
    assert all("hidden" not in axis for axis, mask in plan.axes.items() if not mask.all())


@pytest.mark.parametrize(("criterion", "part"), [("obs-units", "needs data"), ("obs-unit", "obs-units")])
def test_a_criterion_that_cannot_be_is_named(criterion: str, part: str) -> None:
    with pytest.raises(OptionError, match=part):
        prunus.prune(net(), X, budget={"params": 0.5}, criterion=criterion)
