"""The budget max_drop: the smallest network whose accuracy holds, by the paired interval on the selection split."""

from __future__ import annotations

import pytest

from prunus.errors import BudgetError, OptionError
from prunus.experiments.commands.planning import check_wanted, plan_recipe
from prunus.experiments.recipe import Recipe
from prunus.experiments.trained_model import TrainedModel, recovery_of_recipe, trained_model
from prunus.foundation.progress import Silent
from prunus.pipeline.max_drop import check_drop, smallest_within
from prunus.pipeline.request import allowed_drop
from prunus.plans import Plan


def recipe(**prune: object) -> Recipe:
    text = {"version": 1, "model": "digits", "data": "digits", "train": {"steps": 40}, "recover": {"steps": 4}}
    return Recipe.model_validate({**text, "prune": prune})


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return trained_model(recipe(budget={"max_drop": 0.5}), 0, Silent())


def test_more_may_go_where_more_is_allowed(trained: TrainedModel) -> None:
    analysis, recover = trained.analysis, recovery_of_recipe(trained.recipe)

    def plan_for(share: float) -> Plan:
        return analysis.plan({"params": share})

    loose, strict = (smallest_within(analysis, drop, plan_for, recover) for drop in (0.6, 0.2))
    assert loose.drop.high <= 0.6
    assert strict.drop.high <= 0.2
    assert loose.plan.after.params < strict.plan.after.params


def test_the_plan_says_what_was_allowed_and_measured(trained: TrainedModel) -> None:
    plan, scores = plan_recipe(trained)
    assert scores
    estimate, low, high = plan.settings["measured_drop"]
    assert low <= estimate <= high <= 0.5
    assert plan.settings["budget"]["max_drop"] == 0.5


def test_a_drop_beyond_what_is_allowed_is_refused_with_numbers(trained: TrainedModel) -> None:
    analysis, recover = trained.analysis, recovery_of_recipe(trained.recipe)
    with pytest.raises(BudgetError, match=r"drops .*interval.* of accuracy on 200 selection"):
        check_drop(analysis, analysis.plan({"params": 0.03}), 0.0, recover)
    with pytest.raises(BudgetError, match="cannot be met: the least pruned"):
        smallest_within(analysis, 0.0, lambda share: analysis.plan({"params": min(share, 0.03)}), recover)

    def impossible(share: float) -> Plan:
        raise BudgetError("out of reach")

    with pytest.raises(BudgetError, match="no plan was possible"):
        smallest_within(analysis, 0.1, impossible, recover)


@pytest.mark.parametrize("value", [True, -0.1, 1, "1%", 5])
def test_max_drop_is_a_share(value: object) -> None:
    with pytest.raises(OptionError, match="max_drop"):
        allowed_drop(value)


def test_a_recipe_is_refused_before_anything_is_trained() -> None:
    check_wanted(recipe(budget={"max_drop": 0.01}, method="key-path"))
    with pytest.raises(OptionError, match="has no budget"):
        check_wanted(recipe())
    with pytest.raises(OptionError, match=r"'key-path' takes no criterion \(got 'taylor'\); remove criterion or"):
        check_wanted(recipe(budget={"params": 0.5}, method="key-path", criterion="taylor"))
    with pytest.raises(OptionError, match="Unknown allocator"):
        check_wanted(recipe(budget={"params": 0.5}, allocator="fair"))
