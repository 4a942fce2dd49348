"""Searches judged after a repair: what a trial measures, what it does not look at, and what a search makes of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from factories_analysis import analysis_of
from prunus.analysis import Analysis
from prunus.budget import unit_problem
from prunus.data.splits import Split
from prunus.errors import DataError, OptionError, UsageError
from prunus.experiments.recipe import load_recipe
from prunus.methods.after_repair import AfterRepair
from prunus.methods.loss_search import LossSearch
from prunus.methods.scored_units import unit_scores


def subject(outputs: int = 4, samples: int = 96, *, labels: int = 0) -> Analysis:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, outputs)).eval()
    generator = torch.Generator().manual_seed(0)
    # Inputs that depend on each other: what goes can be made up for.
    inputs = torch.randn(samples, 6, generator=generator).cumsum(-1)
    split = Split(inputs, torch.full((samples,), labels), "calibration")
    return analysis_of(model, inputs[:2], split, split)


def half(it: Analysis) -> dict[str, np.ndarray]:
    return {a: np.arange(axis.size) < axis.size // 2 for a, axis in it.coupling.axes.items()}


@torch.no_grad()
def kl(it: Analysis, keep: Mapping[str, np.ndarray], rows: slice) -> float:
    """The divergence without any repair, by zeros in the dense network."""
    inputs = torch.cat([batch for batch, _ in it.calibration.batches(96)])[rows]
    first, _, second, _, last = it.model
    one, two = (torch.from_numpy(mask).float() for mask in keep.values())
    small = last(two * torch.relu(second(one * torch.relu(first(inputs)))))
    wanted, found = it.model(inputs).log_softmax(-1), small.log_softmax(-1)
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@functools.cache
def errors() -> dict[str, float]:
    it = subject()
    return {repair: AfterRepair(it, repair).error(half(it)) for repair in ("bias", "refold", "blockwise")}


def test_a_trial_measures_what_a_repair_leaves() -> None:
    it = subject()
    assert AfterRepair(it).error({}) == 0.0
    plain = kl(it, half(it), slice(None))
    assert 0 < errors()["refold"] < errors()["bias"] < plain
    assert errors()["blockwise"] < errors()["refold"]


def test_a_trial_without_effect_is_the_divergence_on_the_lanes_that_judge() -> None:
    it = subject()
    trial = AfterRepair(it, "statistics")  # there are no norms: nothing is repaired
    held = [i for i, group in enumerate(trial._sample_groups) if group.role == "held"]
    assert [group.count for group in trial._sample_groups] == [12] * 8
    expected = np.mean([kl(it, half(it), slice(12 * i, 12 * i + 12)) for i in held])
    assert trial.error(half(it)) == pytest.approx(float(expected), rel=1e-4)


def test_labels_are_not_looked_at() -> None:
    it = subject(labels=3)
    assert AfterRepair(it).error(half(it)) == errors()["refold"]


def test_outputs_of_one_number_are_compared_by_squares() -> None:
    it = subject(outputs=1)
    error = AfterRepair(it).error(half(it))
    assert 0 < error < 1
    tiny = {a: np.arange(len(mask)) < 1 for a, mask in half(it).items()}
    assert AfterRepair(it).error(tiny) > error


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 40])
def test_few_samples_are_divided_so_that_some_judge(samples: int) -> None:
    it = subject(samples=samples)
    trial = AfterRepair(it)
    roles = [group.role for group in trial._sample_groups]
    assert "fit" in roles
    assert "held" in roles
    assert np.isfinite(trial.error(half(it)))


def test_what_cannot_be_judged_is_refused() -> None:
    it = subject()
    with pytest.raises(DataError, match="1 calibration samples"):
        AfterRepair(replace(it, calibration=Split(torch.randn(1, 6), torch.zeros(1), "calibration")))
    with pytest.raises(OptionError, match="magic"):
        AfterRepair(subject(), "magic")
    with pytest.raises(OptionError, match="magic"):
        LossSearch(subject(), "uniform", 10, repair="magic")


def test_searching_with_a_repair_ends_no_worse_and_says_so() -> None:
    it = subject()
    problem = unit_problem(it.cost, unit_scores(it, "magnitude"), (it.limit(0.5),))
    search = LossSearch(it, "uniform", 8, repair="auto")
    counts = search(problem)
    told = search.report()
    assert told["repair"] == "refold"
    assert told["rise_after"] == pytest.approx(AfterRepair(it).error(problem.masks(counts)))
    assert told["rise_after"] <= told["rise_before"]
    assert problem.fits(counts)


def test_a_recipe_says_after_which_repair_a_search_judges(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    start = "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.5}, search: 9, "
    path.write_text(start + "judge: refold}\n")
    assert load_recipe(path).prune.judge == "refold"
    path.write_text(start + "judge: refolt}\n")
    with pytest.raises(UsageError, match="refold"):
        load_recipe(path)
