"""A plan folder: the plan, its recipe, the scores, and the weights if they were trained for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prunus.errors import PlanError
from prunus.foundation.atomic_files import Contents, atomic_dir
from prunus.foundation.sealed import seal_broken, sealed_bytes
from prunus.plans import PLAN, PLAN_FILES, Plan

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

_RECIPE, _SCORES, _WEIGHTS = "recipe.json", "scores.safetensors", "dense.safetensors"
PICTURE = "plan.svg"
PLAN_FOLDER = Contents(PLAN, PLAN_FILES.names | {_RECIPE, _SCORES, _WEIGHTS, PICTURE})


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """The content of a plan folder.

    Attributes:
        plan: the plan.
        recipe: the recipe of the plan.
        scores: axis id → scores of its units.
        weights: the trained weights; None if the recipe names them itself.
        digest: the digest of the weights, by which other weights are noticed.
    """

    plan: Plan
    recipe: Recipe
    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, Tensor] | None
    digest: str | None = None

    def scores_for(self, recipe: Recipe) -> Mapping[str, np.ndarray] | None:
        """Return the stored scores if a recipe scores in the same way, else None."""
        own = self.recipe
        same = (recipe.prune.criterion, recipe.calibration) == (own.prune.criterion, own.calibration)
        return self.scores or None if same else None


def write_plan_folder(
    out: Path,
    plan: Plan,
    recipe: Recipe,
    *,
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, Tensor] | None,
    digest: str | None = None,
) -> Path:
    """Write a plan folder at once or not at all, in the place of an older one."""
    with atomic_dir(out, PLAN_FOLDER) as folder:
        plan.write(folder)
        values = recipe.model_dump(mode="json")
        # The path of the recipe's folder is relative to the plan, so that both may move together.
        place = os.path.relpath(recipe.base_dir.resolve(), out.resolve())
        (folder / _RECIPE).write_text(
            json.dumps({"base_dir": place, "weights": digest, "recipe": values}, indent=1) + "\n", "utf-8"
        )
        if scores:
            packed = {a: torch.from_numpy(np.ascontiguousarray(s, np.float64)) for a, s in scores.items()}
            (folder / _SCORES).write_bytes(sealed_bytes(packed, {}))
        if weights is not None:
            whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
            (folder / _WEIGHTS).write_bytes(sealed_bytes(whole, {}))
    return out


def read_plan_folder(folder: Path) -> PlanFolder:
    """Read a plan folder back.

    Raises:
        PlanError: no plan there, a missing or damaged file.
    """
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.numpy import load
    from safetensors.torch import load as load_tensors

    from prunus.experiments.recipe import Recipe

    plan = Plan.load(folder)
    path = folder / _RECIPE
    try:
        text = json.loads(path.read_text("utf-8"))
        recipe = Recipe.model_validate_json(json.dumps(text["recipe"])).located(folder.resolve() / text["base_dir"])
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        found = str(error).splitlines()[0]
        raise PlanError(f"{path} cannot be read: {found}; plan again from the recipe.") from error
    try:
        for name in (_SCORES, _WEIGHTS):
            if (folder / name).is_file() and (broken := seal_broken(folder / name, optional=True)):
                raise PlanError(f"{folder / name} is damaged: {broken}; plan again from the recipe.")
        scores = load((folder / _SCORES).read_bytes()) if (folder / _SCORES).is_file() else {}
        weights = load_tensors((folder / _WEIGHTS).read_bytes()) if (folder / _WEIGHTS).is_file() else None
    except (OSError, SafetensorError) as error:
        raise PlanError(
            f"{folder} holds a damaged file ({_SCORES} or {_WEIGHTS}): {error}; plan again from the recipe."
        ) from error
    return PlanFolder(plan, recipe, scores, weights, text.get("weights"))
