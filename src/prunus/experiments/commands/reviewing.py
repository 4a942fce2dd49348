"""A plan folder together with its model: the plan with its edits, every decision priced."""

from __future__ import annotations

from dataclasses import replace

from prunus.analysis.input_size import of_plan, size_of
from prunus.analysis.review import settle, with_savings
from prunus.analysis.review.edit import Settled
from prunus.experiments.commands.folder import PlanFolder
from prunus.experiments.commands.planning import check_weights_of
from prunus.experiments.trained_model import TrainedModel, trained_model
from prunus.foundation.progress import Progress


def review_folder(given: PlanFolder, progress: Progress) -> tuple[TrainedModel, Settled]:
    """Return the recipe's network and the plan with a person's edits; nothing is cut.

    Raises:
        PlanError: the model or its weights are not those of the plan, or an edit breaks a constraint.
    """
    trained = trained_model(given.recipe, given.recipe.seed, progress, given.weights)
    check_weights_of(given.digest, trained)
    coupling = of_plan(trained.analysis, given.plan).coupling
    settled = settle(given.plan, coupling)
    plan = with_savings(settled.plan, coupling, given.scores)
    if size_of(plan) is not None:
        # The price before is that of the network at its original input size.
        plan = replace(plan, before=trained.analysis.cost.price())
    return trained, Settled(plan, (*given.edited, *settled.edits))
