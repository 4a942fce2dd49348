"""Ranking, threshold and importance masks on numbers worked out by hand."""

import math

import pytest
import torch

from prunus.criteria import Evidence
from prunus.errors import BudgetError, DataError, OptionError
from prunus.masks import (
    absolute_masks,
    gradient_masks,
    importance_masks,
    relative_masks,
    relative_scores,
    resolve_count,
    top_masks,
)

WEIGHTS = {"a": torch.tensor([[4.0, -3.0], [2.0, 1.0]]), "b": torch.tensor([[0.4, -0.1], [0.3, 0.2]])}


@pytest.mark.parametrize(
    ("kept", "total", "count"), [(0.29, 100, 29), (0.1, 30, 3), (1 / 3, 3, 1), (1.0, 7, 7), (0.5, 3, 1)]
)
def test_resolve_count_rounds_down_but_not_by_a_rounding_error(kept, total, count):
    assert resolve_count(total, kept, None) == count


@pytest.mark.parametrize(("kept", "count"), [(None, None), (0.5, 3), (1.2, None), (math.nan, None), (None, 11)])
def test_resolve_count_refuses_a_budget_that_is_none(kept, count):
    with pytest.raises(OptionError):
        resolve_count(10, kept, count)


def test_absolute_tau_is_strict():
    masks = absolute_masks(WEIGHTS, tau=0.3)
    assert masks["a"].all()
    assert masks["b"].tolist() == [[True, False], [False, False]]


def test_absolute_solved_floors_the_small_tensor_and_keeps_the_count():
    masks = absolute_masks(WEIGHTS, kept=0.5)
    assert masks["a"].tolist() == [[True, True], [True, False]]
    assert masks["b"].tolist() == [[True, False], [False, False]]
    assert absolute_masks(WEIGHTS, kept=0.5, floor=False)["a"].all()


def test_absolute_tau_floors_an_empty_tensor():
    assert absolute_masks(WEIGHTS, tau=1.0)["b"].tolist() == [[True, False], [False, False]]
    assert not absolute_masks(WEIGHTS, tau=1.0, floor=False)["b"].any()


def test_relative_ignores_the_scale_of_a_tensor():
    masks = relative_masks(WEIGHTS, tau=0.5)
    assert masks["a"].tolist() == [[True, True], [False, False]]
    assert masks["b"].tolist() == [[True, False], [True, False]]
    solved = relative_masks(WEIGHTS, keep_count=4)
    assert all(torch.equal(solved[name], masks[name]) for name in masks)


def test_relative_to_std_uses_the_population_deviation():
    weights = {"w": torch.tensor([[1.0, -1.0], [3.0, -3.0]])}
    scores = relative_scores(weights, "std")["w"]
    assert scores.flatten().tolist() == pytest.approx(
        [1 / math.sqrt(5), 1 / math.sqrt(5), 3 / math.sqrt(5), 3 / math.sqrt(5)]
    )
    assert relative_masks(weights, scale="std", tau=1.0)["w"].tolist() == [[False, False], [True, True]]


def test_relative_of_a_tensor_without_spread():
    weights = {"zero": torch.zeros(2, 2), "same": torch.full((2, 2), 7.0)}
    masks = relative_masks(weights, scale="std", tau=5.0, floor=False)
    assert not masks["zero"].any()
    assert masks["same"].all()


def test_gradient_masks_ignore_the_sign():
    assert gradient_masks({"g": torch.tensor([[-2.0, 1.0]])}, tau=1.5)["g"].tolist() == [[True, False]]


def test_ties_at_the_threshold_are_kept_by_index_never_in_excess():
    masks = absolute_masks({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, keep_count=5)
    assert masks["a"].all()
    assert masks["b"].tolist() == [[True, False], [False, False]]


def test_budget_below_the_floors_says_so():
    with pytest.raises(BudgetError, match="keeping 1 weights would empty at least 1 of 2 tensors"):
        absolute_masks(WEIGHTS, keep_count=1)


@pytest.mark.parametrize("make", [absolute_masks, relative_masks, gradient_masks])
def test_nan_and_no_tensors_are_refused(make):
    with pytest.raises(DataError, match=r"'w'.*NaN or infinite"):
        make({"w": torch.tensor([[1.0, math.nan]])}, kept=0.5)
    with pytest.raises(DataError, match="at least one"):
        make({}, kept=0.5)


def test_bad_options_are_refused():
    with pytest.raises(OptionError, match="exactly one of tau, kept, keep_count"):
        absolute_masks(WEIGHTS, tau=0.1, kept=0.5)
    with pytest.raises(OptionError, match="exactly one of the two"):
        absolute_masks(WEIGHTS)
    with pytest.raises(OptionError, match="'max' and 'std'"):
        relative_masks(WEIGHTS, scale="mean", kept=0.5)
    with pytest.raises(OptionError, match="NaN"):
        absolute_masks(WEIGHTS, tau=math.nan)


def test_half_precision_is_ranked_exactly():
    weights = {"w": torch.tensor([[1.0, 1.0078125, 0.99609375]], dtype=torch.bfloat16)}
    assert absolute_masks(weights, keep_count=1)["w"].tolist() == [[False, True, False]]


def test_masks_do_not_share_one_buffer():
    masks = top_masks(WEIGHTS, kept=0.5)
    assert masks["b"].untyped_storage().nbytes() == 4


def test_importance_variants_rank_differently():
    evidence = Evidence(
        {"w": torch.tensor([[0.1, 2.0, 1.0]])},
        grad_sq={"w": torch.tensor([[9.0, 1.0, 2.0]])},
        grad={"w": torch.tensor([[0.0, 0.5, -1.2]])},
    )
    kept = {v: importance_masks(evidence, variant=v, keep_count=1)["w"].tolist() for v in _VARIANTS}
    assert kept == {
        "importance": [[True, False, False]],
        "importance-weighted": [[False, True, False]],
        "taylor-weight": [[False, False, True]],
    }


_VARIANTS = ("importance", "importance-weighted", "taylor-weight")


def test_importance_says_what_evidence_is_missing():
    with pytest.raises(OptionError, match="needs grad_sq"):
        importance_masks(Evidence(WEIGHTS), kept=0.5)
    with pytest.raises(OptionError, match="Did you mean 'importance'"):
        importance_masks(Evidence(WEIGHTS), variant="importanse", kept=0.5)
