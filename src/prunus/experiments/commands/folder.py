"""A plan folder: the plan, its recipe, the scores, and the weights if they were trained for it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from prunus.errors import DataError, PlanError
from prunus.foundation.atomic_files import Contents, atomic_dir
from prunus.foundation.strict_json import parse_json, read_text
from prunus.foundation.user_code import one_line
from prunus.plans import PLAN, PLAN_FILES, Plan

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

_RECIPE, _SCORES, _WEIGHTS = "recipe.json", "scores.safetensors", "dense.safetensors"
PICTURE = "plan.svg"
_LONGEST_RECIPE = 1 << 20
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
    from safetensors.numpy import save
    from safetensors.torch import save as save_tensors

    with atomic_dir(out, PLAN_FOLDER) as folder:
        plan.write(folder)
        values = recipe.model_dump(mode="json")
        # The path of the recipe's folder is relative to the plan, so that both may move together.
        place = os.path.relpath(recipe.base_dir.resolve(), out.resolve())
        (folder / _RECIPE).write_text(
            json.dumps({"base_dir": place, "weights": digest, "recipe": values}, indent=1) + "\n", "utf-8"
        )
        if scores:
            (folder / _SCORES).write_bytes(save({a: np.ascontiguousarray(s, np.float64) for a, s in scores.items()}))
        if weights is not None:
            whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
            (folder / _WEIGHTS).write_bytes(save_tensors(whole))
    return out


def read_plan_folder(folder: Path, *, trust: bool = False) -> PlanFolder:
    """Read a plan folder back.

    Args:
        folder: what `write_plan_folder` wrote.
        trust: whether its recipe may name code, which is run, and files outside of the folder. Built-in models and
            data, and models that torchvision, timm and transformers ship, need none.

    Raises:
        PlanError: no plan there, a missing or damaged file.
        UsageError: its recipe needs code or files, and is not trusted.
    """
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.numpy import load
    from safetensors.torch import load as load_tensors

    from prunus.experiments.commands.trust import trusted_recipe
    from prunus.experiments.recipe import Recipe

    plan = Plan.load(folder)
    path = folder / _RECIPE
    try:
        text = parse_json(read_text(path, _LONGEST_RECIPE), str(path))
        recipe = Recipe.model_validate_json(json.dumps(text["recipe"]))
        base_dir, digest = folder.resolve() / text["base_dir"], text.get("weights")
        if digest is not None and type(digest) is not str:
            raise TypeError("'weights' is no text")
    except (OSError, KeyError, TypeError, ValueError, RecursionError, ValidationError, DataError) as error:
        raise PlanError(f"{path} cannot be read: {one_line(error, 160)}; plan again from the recipe.") from error
    recipe = trusted_recipe(recipe, folder, base_dir, trust)
    try:
        scores = load((folder / _SCORES).read_bytes()) if (folder / _SCORES).is_file() else {}
        weights = load_tensors((folder / _WEIGHTS).read_bytes()) if (folder / _WEIGHTS).is_file() else None
    except (OSError, SafetensorError) as error:
        raise PlanError(
            f"{folder} holds a damaged file: {one_line(error, 160)}; plan again from the recipe."
        ) from error
    return PlanFolder(plan, recipe, scores, weights, digest)
