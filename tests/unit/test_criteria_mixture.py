"""Weighted sums of criteria: the formula, the text that plans record, every place that takes one, and bad weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from factories_digits import fresh_subject
from prunus.criteria import (
    Evidence,
    canonical,
    criterion_name,
    criterion_of,
    damage_curves,
    mixture_of,
    needs_of,
    probes_for,
    weight_criterion_of,
)
from prunus.errors import OptionError
from prunus.experiments.citation import cite
from prunus.experiments.recipe import load_recipe
from prunus.methods.scored_units import unit_scores
from prunus.pruner import Pruner, PrunerOptions
from prunus.testing import criterion_suite

MIX = {"magnitude": 0.3, "taylor": 0.5, "contribution": 0.2}
TEXT = "contribution=0.2,magnitude=0.3,taylor=0.5"

TestMixtureKeepsThePromisesOfACriterion = criterion_suite(criterion_of(MIX), analysis=fresh_subject)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 6, generator=generator), torch.randint(0, 3, (32,), generator=generator))]


def planned(**options: Any) -> prunus.Plan:
    return prunus.plan(network(), torch.zeros(2, 6), budget={"params": 0.6}, data=batches(), **options)


def test_a_unit_has_the_weighted_sum_of_scores_over_their_means() -> None:
    analysis = fresh_subject()
    parts = {name: unit_scores(analysis, name) for name in MIX}
    mixed = unit_scores(analysis, {name: 10 * weight for name, weight in MIX.items()})  # only proportions count
    for axis, scores in mixed.items():
        expected = sum(MIX[name] * parts[name][axis] / parts[name][axis].mean() for name in MIX)
        assert np.allclose(scores, expected)


def test_a_weight_has_the_weighted_sum_of_scores_over_the_means_of_all() -> None:
    weights = {"a": torch.tensor([[1.0, -3.0]]), "b": torch.tensor([[2.0, 2.0]])}
    grad_sq = {"a": torch.tensor([[0.5, 0.0]]), "b": torch.tensor([[0.0, 1.5]])}
    scores = weight_criterion_of({"magnitude": 3, "importance": 1})(Evidence(weights, grad_sq=grad_sq))
    assert scores["a"].tolist() == [[0.75 * 1 / 2 + 0.25 * 0.5 / 0.5, 0.75 * 3 / 2]]
    assert scores["b"].tolist() == [[0.75, 0.75 + 0.25 * 1.5 / 0.5]]


def test_a_criterion_without_any_score_adds_nothing() -> None:
    weights = {"a": torch.tensor([[1.0, -3.0]])}
    scores = weight_criterion_of("magnitude=1,gradient=1")(Evidence(weights, grad_abs={"a": torch.zeros(1, 2)}))
    assert scores["a"].tolist() == [[0.25, 0.75]]


def test_a_mixture_of_one_plans_as_the_criterion_alone() -> None:
    alone, mixed = planned(criterion="magnitude"), planned(criterion={"magnitude": 2.0})
    assert {a: m.tolist() for a, m in alone.axes.items()} == {a: m.tolist() for a, m in mixed.axes.items()}
    alone = planned(levels=("weight",), criterion="snip")
    mixed = planned(levels=("weight",), criterion={"snip": 1})
    assert {a: m.tolist() for a, m in alone.masks.items()} == {a: m.tolist() for a, m in mixed.masks.items()}


def test_a_mixture_of_norms_is_a_norm() -> None:
    analysis = fresh_subject()
    scores = unit_scores(analysis, "magnitude")
    norms = damage_curves(analysis.coupling, scores, "magnitude=1,l1=1")
    for axis, curve in damage_curves(analysis.coupling, scores, "magnitude").items():
        assert np.allclose(curve, norms[axis])
    energies = damage_curves(analysis.coupling, scores, MIX)
    assert any(not np.allclose(energies[axis], norms[axis]) for axis in norms)


def test_it_needs_what_its_criteria_need() -> None:
    assert set(needs_of(MIX)) == {"grad", "contribution"}
    assert len(probes_for(TEXT)) == 2
    assert needs_of({"magnitude": 1, "l1": 1}) == ()


def test_a_plan_records_a_text_that_makes_the_same_plan() -> None:
    plan = planned(criterion=MIX)
    assert plan.settings["criterion"] == TEXT == canonical(MIX) == criterion_name(MIX)
    again = planned(criterion=plan.settings["criterion"])
    assert json.dumps(plan.settings) == json.dumps(again.settings)
    assert plan.decisions == again.decisions


def test_the_order_of_names_changes_nothing() -> None:
    assert list(mixture_of({"b": 2, "a": 1}) or ()) == ["a", "b"]
    assert (
        canonical("taylor=0.5, magnitude=1.0")
        == canonical({"magnitude": 1, "taylor": 0.5})
        == ("magnitude=1,taylor=0.5")
    )


def test_units_and_weights_share_a_mixture_where_both_know_it() -> None:
    both = planned(levels=("unit", "weight"), criterion={"magnitude": 1, "snip": 1})
    assert both.settings["weight_criterion"] == "magnitude=1,snip=1"
    units = planned(levels=("unit", "weight"), criterion=MIX)
    assert (units.settings["criterion"], units.settings["weight_criterion"]) == (TEXT, "magnitude")


@pytest.mark.parametrize("strategy", ["gradual", "units"])
def test_a_pruner_takes_a_mixture(strategy: str) -> None:
    model, (inputs, targets) = network(), batches()[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = PrunerOptions(kept=0.6, method=strategy, criterion={"magnitude": 1, "snip": 1})
    pruner = Pruner(model, options, example_inputs=inputs)
    with pruner.attached(optimizer, total_steps=6):
        for _ in range(6):
            pruner.step_begin()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert sum(int((p == 0).sum()) for p in model.parameters()) > 10


def test_stages_of_a_recipe_take_mixtures(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.5}}\n"
        "stages: [{level: units, kept: 0.8, criterion: {magnitude: 0.3, taylor: 0.5}}, "
        "{level: weights, criterion: 'snip=1,magnitude=1'}]\n"
    )
    units, weights = load_recipe(path).stages
    assert (units.criterion, weights.criterion) == ("magnitude=0.3,taylor=0.5", "magnitude=1,snip=1")
    plan = prunus.plan(network(), torch.zeros(2, 6), budget={"params": 0.5}, data=batches(), stages=[units, weights])
    assert {d.reason.split(" of ")[0] for d in plan.decisions} == {
        "lowest magnitude=0.3,taylor=0.5",
        "lowest magnitude=1,snip=1",
    }


def test_the_papers_of_every_criterion_are_cited(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nmodel: digits\ndata: digits\nprune: {budget: {params: 0.5}, criterion: {l1: 1, taylor: 1}}\n"
    )
    assert {used.name for used in cite(path).used if used.role == "criterion"} == {"l1", "taylor"}


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({}, "a mixture of nothing"),
        ({"magnitude": 0}, "the weight of 'magnitude' is 0; allowed: a positive number"),
        ({"magnitude": -0.5}, "the weight of 'magnitude' is -0.5; allowed: a positive number"),
        ({"magnitude": float("nan")}, "the weight of 'magnitude' is nan"),
        ({"magnitude": True}, "the weight of 'magnitude' is True"),
        ({"magnitude": "much"}, "the weight of 'magnitude' is 'much'"),
        ({3: 1.0}, "mixes 3, which is no name"),
        ({"magnitud": 1.0}, "criterion 'magnitud' is unknown. Did you mean 'magnitude'?"),
        ("magnitude=1,taylor", "got 'taylor' in 'magnitude=1,taylor'; allowed: NAME=WEIGHT"),
        ("magnitude=1,magnitude=2", "'magnitude' stands twice"),
        ({"obs-units": 1, "l1": 1}, "'obs-units' stands in a mixture"),
        ({"movement": 1, "l1": 1}, "needs a running training"),
    ],
)
def test_what_is_no_mixture_is_refused_in_a_line(criterion: Any, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        planned(criterion=criterion)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_name_an_unknown_criterion_too() -> None:
    with pytest.raises(OptionError, match="criterion 'sensitivity' scores units, and weights are ranked here"):
        planned(levels=("weight",), criterion={"magnitude": 1, "sensitivity": 1})
    with pytest.raises(OptionError, match="has no way 'sensitivity'"):
        planned(stages=[{"level": "weights", "criterion": {"magnitude": 1, "sensitivity": 1}}])


def test_a_recipe_refuses_a_weight_with_its_line(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nmodel: digits\ndata: digits\nprune:\n  criterion: {taylor: 0}\n")
    with pytest.raises(prunus.PrunusError, match=r"recipe.yaml:5: prune.criterion.*the weight of 'taylor' is 0"):
        load_recipe(path)
