"""What grows back begins with the dense network's values; what stayed keeps what it has learned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from factories_recovery import EXAMPLE, analysed, cut_by, dense, half_plan, task
from prunus.analysis.score import make_plan
from prunus.errors import OptionError, PlanError, SelectorError
from prunus.recovery import regrow, reseed_


def test_weights_that_grow_back_are_the_dense_ones_and_the_rest_is_as_learned() -> None:
    model, parent = nn.Linear(3, 2), nn.Linear(3, 2)
    learned = model.weight.detach().clone()
    before = {"weight": torch.tensor([[True, False, False], [True, True, False]])}
    after = {"weight": torch.tensor([[True, True, False], [False, True, True]])}
    assert reseed_(model, parent, before, after) == {"weight": 2}
    grown = after["weight"] & ~before["weight"]
    assert torch.equal(model.weight[grown], parent.weight[grown])
    assert torch.equal(model.weight[~grown], learned[~grown])
    assert reseed_(model, parent, before, {}) == {"weight": 3}


@pytest.mark.parametrize(
    ("before", "error", "message"),
    [
        ({"wait": torch.ones(2, 3, dtype=torch.bool)}, SelectorError, "Did you mean 'weight'"),
        ({"weight": torch.ones(3, 3, dtype=torch.bool)}, OptionError, "all must be equal"),
        ({"weight": torch.ones(2, 3, dtype=torch.uint8)}, OptionError, "allowed: torch.bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    before: Mapping[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    model = nn.Linear(3, 2)
    kept = model.weight.detach().clone()
    with pytest.raises(error, match=message):
        reseed_(model, nn.Linear(3, 2), before, {})
    assert torch.equal(model.weight, kept)


def test_units_grow_back_around_what_was_learned() -> None:
    narrow, wide = half_plan(0.25), half_plan(0.75)
    small = cut_by(narrow)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(1.0)
    grown = regrow(small, narrow, wide, dense(), analysed(), EXAMPLE)
    fresh = cut_by(wide)
    ours, theirs = grown.get_parameter("blocks.1.a.weight"), fresh.get_parameter("blocks.1.a.weight")
    assert ours.shape == theirs.shape == (18, 18)
    assert torch.equal(ours[:6, :6], small.get_parameter("blocks.1.a.weight"))
    assert torch.equal(ours[6:], theirs[6:])
    assert torch.equal(ours[:, 6:], theirs[:, 6:])
    assert torch.equal(grown.get_parameter("head.bias"), small.get_parameter("head.bias"))


def test_growing_back_to_the_same_plan_changes_nothing() -> None:
    plan = half_plan(masked=True)
    small = cut_by(plan)
    inputs = task()[1].inputs
    grown = regrow(small, plan, half_plan(), dense(), analysed(), EXAMPLE)
    whole = cut_by(half_plan())
    assert torch.equal(grown.eval()(inputs), whole.eval()(inputs))  # Masked weights are the dense ones again.
    again = regrow(small, plan, plan, dense(), analysed(), EXAMPLE)
    assert torch.equal(again.eval()(inputs), small.eval()(inputs))


def test_a_plan_that_is_not_wider_is_refused() -> None:
    narrow = half_plan(0.25)
    shifted = make_plan(
        analysed(), {name: np.arange(axis.size) >= axis.size // 2 for name, axis in analysed().axes.items()}
    )
    with pytest.raises(PlanError, match="still has"):
        regrow(cut_by(narrow), narrow, shifted, dense(), analysed(), EXAMPLE)
    with pytest.raises(PlanError, match="its plan keeps"):
        regrow(cut_by(half_plan()), narrow, narrow, dense(), analysed(), EXAMPLE)


def test_a_misspelled_name_after_does_not_bring_everything_back() -> None:
    model, before = nn.Linear(3, 2), {"weight": torch.tensor([[True, False, False], [True, True, False]])}
    kept = model.weight.detach().clone()
    with pytest.raises(SelectorError, match="Did you mean 'weight'"):
        reseed_(model, nn.Linear(3, 2), before, {"wieght": before["weight"]})
    assert torch.equal(model.weight, kept)


def test_a_wider_plan_may_not_mask_what_is_still_there() -> None:
    with pytest.raises(PlanError, match=r"masks [0-9]+ weights of .* that the small network still has"):
        regrow(cut_by(half_plan()), half_plan(), half_plan(masked=True), dense(), analysed(), EXAMPLE)
