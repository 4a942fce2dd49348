"""A plan folder: the plan, its recipe, the scores, and the weights if they were trained for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prunus.errors import DataError, PlanError, shown
from prunus.exporters.header import HEADER
from prunus.foundation.atomic_files import atomic_dir
from prunus.foundation.checksum import bytes_with_checksum, checksum_error, is_changed, with_sum
from prunus.foundation.places import Contents
from prunus.foundation.strict_json import decode_record, parse_json, read_text
from prunus.foundation.user_code import one_line
from prunus.plans import PLAN, PLAN_FILES, Cost, Plan, read_plan

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

RECIPE, _SCORES, _WEIGHTS = "recipe.json", "scores.safetensors", "dense.safetensors"
PICTURE = "plan.svg"
_LONGEST_RECIPE = 1 << 20
PLAN_FOLDER = Contents(PLAN, PLAN_FILES.names | {RECIPE, _SCORES, _WEIGHTS, PICTURE}, PLAN_FILES.text)


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """The content of a plan folder.

    Attributes:
        plan: the plan.
        recipe: the recipe of the plan.
        scores: axis id → scores of its units.
        weights: the trained weights; None if the recipe names them itself.
        digest: the digest of the weights, by which other weights are noticed.
        edited: a line for each text that a person edited since prunus wrote it, then one for each edit that is not
            read.
    """

    plan: Plan
    recipe: Recipe
    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, Tensor] | None
    digest: str | None = None
    edited: tuple[str, ...] = ()

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
        about = with_sum({**recipe.stored(out), "weights": digest, "computed": _computed(plan)})
        (folder / RECIPE).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        if scores:
            packed = {a: torch.from_numpy(np.ascontiguousarray(s, np.float64)) for a, s in scores.items()}
            (folder / _SCORES).write_bytes(bytes_with_checksum(packed, {}))
        if weights is not None:
            whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
            (folder / _WEIGHTS).write_bytes(bytes_with_checksum(whole, {}))
    return out


def read_plan_folder(folder: Path, *, trust: bool = False) -> PlanFolder:
    """Read a plan folder back; a person may edit what the plan removes, but neither its settings nor its prices.

    Args:
        folder: what `write_plan_folder` wrote.
        trust: whether its recipe may name code, which is run, and files outside of the folder. Built-in models and
            data, and models that torchvision, timm and transformers ship, need none.

    Raises:
        PlanError: no plan there, a checkpoint, a missing or damaged file.
        UsageError: its recipe needs code or files, and is not trusted.
    """
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.numpy import load
    from safetensors.torch import load as load_tensors

    from prunus.experiments.commands.trust import trusted_recipe
    from prunus.experiments.recipe import Recipe

    plan, changed = read_plan(folder)
    path = folder / RECIPE
    if (folder / HEADER).is_file() and not path.is_file():
        raise PlanError(
            f"{folder} is a checkpoint of a cut network, not a plan folder; give the folder that prunus plan wrote, or "
            f"use: prunus verify {shlex.quote(str(folder))}."
        )
    try:
        text = parse_json(read_text(path, _LONGEST_RECIPE), str(path))
        recipe = Recipe.model_validate_json(json.dumps(text["recipe"]))
        base_dir, digest = folder.resolve() / text["base_dir"], text.get("weights")
        if digest is not None and type(digest) is not str:
            raise TypeError("'weights' is no text")
        plan, unread = _as_computed(plan, text.get("computed"))
        names = [name for name, other in ((PLAN, changed), (RECIPE, is_changed(text))) if other]
        edited = (*(f"{name}: not as prunus wrote it" for name in names), *unread)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, ValidationError, DataError) as error:
        raise PlanError(f"{path} cannot be read: {one_line(error, 160)}; plan again from the recipe.") from error
    recipe = trusted_recipe(recipe, folder, base_dir, trust)
    try:
        for name in (_SCORES, _WEIGHTS):
            if (folder / name).is_file() and (broken := checksum_error(folder / name, optional=True)):
                raise PlanError(f"{folder / name} is damaged: {broken}; plan again from the recipe.")
        scores = load((folder / _SCORES).read_bytes()) if (folder / _SCORES).is_file() else {}
        weights = load_tensors((folder / _WEIGHTS).read_bytes()) if (folder / _WEIGHTS).is_file() else None
    except (OSError, SafetensorError) as error:
        raise PlanError(
            f"{folder} holds a damaged file: {one_line(error, 160)}; plan again from the recipe."
        ) from error
    return PlanFolder(plan, recipe, scores, weights, digest, edited)


def _computed(plan: Plan) -> dict[str, Any]:
    """Return the parts of ``plan.json`` that are computed and that a person does not set."""
    text = plan.describe()
    return {key: text[key] for key in ("settings", "before", "after")}


def _as_computed(plan: Plan, computed: Any) -> tuple[Plan, tuple[str, ...]]:
    """Return a plan with the settings and prices that it was written with, and a line for each edit of them."""
    if not isinstance(computed, dict):  # the folder is older than this record
        return plan, ()
    if not isinstance(computed.get("settings"), dict):
        raise TypeError("'computed' has no settings")
    found = _computed(plan)
    settings = {**computed["settings"], **found["settings"]}
    lines = [
        f"settings.{key}: this edit is not read; the plan was made with {shown(computed['settings'].get(key))}, and "
        "prunus plan makes another"
        for key in settings
        if computed["settings"].get(key) != found["settings"].get(key)
    ]
    lines += [
        f"{name}: this edit is not read; prices are computed from what the plan removes"
        for name in ("before", "after")
        if computed[name] != found[name]
    ]
    before, after = (decode_record(Cost, computed[name], name) for name in ("before", "after"))
    return replace(plan, settings=computed["settings"], before=before, after=after), tuple(lines)
