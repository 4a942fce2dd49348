"""Strips and n of eight: where the windows lie, and that masks respect them to the exact count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories_analysis import planned_by
from factories_digits import fresh_subject
from prunus.errors import BudgetError, OptionError
from prunus.masks.window import Strip
from prunus.methods.weights import maskable


def test_strips_follow_inputs_or_units() -> None:
    assert Strip(2).labels((2, 5)).tolist() == [[0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert Strip(2, "unit").labels((3, 2)).tolist() == [[0, 1], [0, 1], [2, 3]]


def test_strips_of_a_convolution_stay_at_one_kernel_position() -> None:
    labels = Strip(2).labels((1, 4, 1, 2))
    assert labels[0, :, 0].T.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 3)] * 2), st.integers(1, 4), st.sampled_from(["input", "unit"])
)
def test_every_strip_is_a_line_of_neighbours(shape: tuple[int, ...], length: int, along: str) -> None:
    labels = Strip(length, along).labels(shape)  # type: ignore[arg-type]
    moving = 1 if along == "input" else 0
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    for label in labels.unique():
        places = (labels == label).nonzero()
        assert len(places) <= length
        fixed = [d for d in range(4) if d != moving]
        assert (places[:, fixed] == places[0, fixed]).all()
        assert (places[:, moving].diff() == 1).all()
        assert int(places[0, moving]) % length == 0


@pytest.mark.parametrize("bad", [{"length": 0}, {"length": 2, "along": "output"}])
def test_strips_refuse_what_is_no_strip(bad: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="allowed"):
        Strip(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "along"), [("window-strip", "input"), ("window-strip-column", "unit")])
def test_at_most_one_strip_of_the_network_is_broken(name: str, along: str) -> None:
    plan = planned_by(name, fresh_subject(), 0.4)
    broken = 0
    for mask in plan.masks.values():
        labels = Strip(8, along).labels(mask.shape).flatten()  # type: ignore[arg-type]
        share = torch.bincount(labels, torch.from_numpy(mask).flatten().double()) / torch.bincount(labels)
        broken += int(((share > 0) & (share < 1)).sum())
    assert len(plan.masks) > 10
    assert broken <= 1


@pytest.mark.parametrize(("kept", "most"), [(0.5, 4), (0.3, 3), (0.7, 6)])
def test_no_eight_neighbours_hold_more_than_the_budget_needs(kept: float, most: int) -> None:
    subject = fresh_subject()
    plan = planned_by("n-of-eight", subject, kept)
    fullest = 0
    for name, mask in plan.masks.items():
        inputs = np.moveaxis(mask, 1, -1)
        for start in range(0, inputs.shape[-1], 8):
            fullest = max(fullest, int(inputs[..., start : start + 8].sum(-1).max()))
        weight = maskable(subject)[name].abs()
        assert weight[torch.from_numpy(mask)].mean() > weight[torch.from_numpy(~mask)].mean()
    assert fullest == most
    total = subject.cost.price().params
    assert total - sum(int((~m).sum()) for m in plan.masks.values()) == int(kept * total)


@pytest.mark.parametrize("name", ["window-strip", "window-strip-column", "n-of-eight"])
def test_a_budget_below_what_cannot_be_masked_is_refused(name: str) -> None:
    with pytest.raises(BudgetError, match=r"\d"):
        planned_by(name, fresh_subject(), 0.003)
