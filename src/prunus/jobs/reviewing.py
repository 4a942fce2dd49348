"""Lay a plan folder beside its model again, for people: settled as `apply` would take it, every decision priced."""

from __future__ import annotations

from prunus.jobs.folder import PlanFolder
from prunus.jobs.planning import check_weights_of
from prunus.parent import Parent, parent_of
from prunus.progress import Progress
from prunus.review import settle, with_savings
from prunus.review.edit import Settled


def review_folder(given: PlanFolder, progress: Progress) -> tuple[Parent, Settled]:
    """Return the recipe's network and the plan as a person left it; nothing is cut.

    Raises:
        PlanError: the model or its weights are not those of the plan, or an edit breaks a constraint.
    """
    parent = parent_of(given.recipe, given.recipe.seed, progress, given.weights)
    check_weights_of(given.plan, parent)
    settled = settle(given.plan, parent.subject.coupling)
    return parent, Settled(with_savings(settled.plan, parent.subject.coupling, given.scores), settled.edits)
