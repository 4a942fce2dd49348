"""Do exactly what a plan folder says, prove it, and write the smaller network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunus.errors import PlanError
from prunus.export import save
from prunus.jobs.folder import PlanFolder
from prunus.jobs.planning import check_weights_of
from prunus.parent import Parent, parent_of
from prunus.plans import Plan
from prunus.progress import Progress
from prunus.review import settle
from prunus.surgery.cut import operate
from prunus.surgery.record import Surgery
from prunus.surgery.verify import Check, verify


@dataclass(frozen=True, slots=True)
class Applied:
    """A cut network with its proof; ``edits`` are the lines that a person changed in the plan."""

    parent: Parent
    model: nn.Module
    plan: Plan
    surgery: Surgery
    check: Check
    edits: tuple[str, ...]


def apply_folder(given: PlanFolder, out: Path | None, progress: Progress) -> Applied:
    """Cut the recipe's network as the plan says, verify it, and write the checkpoint where ``out`` is given.

    Raises:
        PlanError: the model or its weights are not those of the plan, or an edit breaks a constraint.
        VerifyError: the cut network differs from the masked original; nothing is written.
    """
    parent = parent_of(given.recipe, given.recipe.seed, progress, given.weights)
    check_weights_of(given.plan, parent)
    subject = parent.subject
    settled = settle(given.plan, subject.coupling)
    if settled.plan.is_empty:
        raise PlanError("The plan removes nothing; plan again with a lower budget.")
    small, surgery = operate(subject.model, subject.coupling, settled.plan, subject.example_inputs)
    check = verify(subject.model, small, subject.coupling, settled.plan, subject.example_inputs, seed=subject.seed)
    applied = Applied(parent, small, settled.plan, surgery, check, settled.edits)
    if out is not None:
        save(applied, out, metadata={"recipe": given.recipe.model_dump(mode="json"), "edits": list(settled.edits)})
    return applied
