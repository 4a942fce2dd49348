"""A plan folder together with its model: the plan with its edits, every decision priced."""

from __future__ import annotations

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
    coupling = trained.analysis.for_plan(given.plan).coupling
    settled = settle(given.plan, coupling)
    plan = with_savings(settled.plan, coupling, given.scores)
    return trained, Settled(plan, (*settled.edits, *given.unread))
