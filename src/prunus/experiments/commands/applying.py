"""Cut a network exactly as a plan folder says, verify the cut, and write the smaller network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prunus.errors import PlanError
from prunus.experiments.commands.folder import PlanFolder
from prunus.experiments.commands.reviewing import review_folder
from prunus.experiments.trained_model import TrainedModel
from prunus.foundation.progress import Progress
from prunus.outcome import Outcome, realise


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a plan folder; ``edits`` describe the changes of a person in the plan."""

    trained: TrainedModel
    outcome: Outcome
    edits: tuple[str, ...]


def apply_folder(given: PlanFolder, out: Path | None, progress: Progress) -> Applied:
    """Cut the recipe's network as the plan says, verify the cut, and write the checkpoint if ``out`` is given.

    Raises:
        PlanError: the model or its weights are not those of the plan, or an edit breaks a constraint.
        VerifyError: the cut network differs from the masked original; nothing is written.
    """
    trained, settled = review_folder(given, progress)
    if settled.plan.is_empty:
        raise PlanError("The plan removes nothing; plan again with a lower budget.")
    found = realise(trained.analysis, settled.plan, repair=None, progress=progress)
    if out is not None:
        found.save(out, metadata={**given.recipe.stored(out), "edits": list(settled.edits)})
    return Applied(trained, found, settled.edits)
