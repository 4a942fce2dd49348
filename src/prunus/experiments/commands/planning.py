"""The plans of a recipe; further budgets for the same network reuse its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from prunus.errors import PlanError
from prunus.experiments.trained_model import TrainedModel, request_of
from prunus.methods.by_criterion import restore_scores, stored_scores
from prunus.pipeline import Request
from prunus.pipeline.planner import Planned, plan_request, planned
from prunus.pipeline.stage_checks import check_stages
from prunus.plans import Plan

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe


def check_wanted(recipe: Recipe) -> Request:
    """Refuse a recipe that cannot be planned before anything is trained, and return its request.

    Raises:
        OptionError: no budget, an unknown metric, criterion, allocator or method, or invalid stages.
    """
    request = request_of(recipe)
    check_stages(request)
    return request


def plan_recipe(
    trained: TrainedModel, scores: Mapping[str, np.ndarray] | None = None
) -> tuple[Plan, Mapping[str, np.ndarray]]:
    """Return the plan of a recipe, with priced decisions, and the scores behind it.

    Args:
        trained: the network of the recipe.
        scores: the scores of an earlier plan by the same criterion, to be reused.

    Raises:
        OptionError: no budget, an unknown criterion, allocator or method, or a budget that the method does not know.
        BudgetError: the budget is out of reach or met already.
    """
    request = check_wanted(trained.recipe)
    if scores:
        restore_scores(trained.analysis, request.criterion, scores)
    plan = plan_request(trained.analysis, request)
    return plan, stored_scores(trained.analysis, plan.settings.get("criterion"))


def plan_again(trained: TrainedModel, recipe: Recipe) -> tuple[Plan, Mapping[str, np.ndarray]]:
    """Return the plan of another recipe for the same network; earlier measurements are reused."""
    return plan_recipe(trained.with_recipe(recipe))


def planned_recipe(trained: TrainedModel) -> Planned:
    """Plan a recipe whose stages may train, and return the network with the trained weights too."""
    return planned(trained.analysis, check_wanted(trained.recipe))


def check_weights_of(digest: str | None, trained: TrainedModel) -> None:
    """Refuse a plan that was made for other weights: its scores would be wrong.

    Raises:
        PlanError: the tensors differ from those of the plan.
    """
    own = trained.digest
    if digest is not None and digest != own:
        raise PlanError(
            f"The plan was made for weights {digest}; those of {trained.recipe.model!r} are {own} now. Plan again."
        )
