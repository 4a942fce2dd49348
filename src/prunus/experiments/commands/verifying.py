"""The proof of a checkpoint folder: its cut, and the calls of the network in it."""

from __future__ import annotations

import copy
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.analysis import Analysis
from prunus.errors import DataError, ModelError, UsageError
from prunus.experiments.commands.folder import RECIPE
from prunus.experiments.commands.trust import trusted_recipe
from prunus.experiments.sources import resolve_model
from prunus.experiments.trained_model import trained_model
from prunus.exporters import load
from prunus.exporters.header import HEADER, read_header
from prunus.foundation.progress import Progress
from prunus.outcome import FRESH, check_calls, realise
from prunus.outcome.calls import CallTable
from prunus.plans import Plan
from prunus.surgery.proving.verify import Check

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Verified:
    """The proof of a folder; ``calls`` is None if the table was not requested."""

    check: Check
    calls: CallTable | None

    @property
    def ok(self) -> bool:
        """Return whether the cut is right and no call fails or differs."""
        return self.check.ok and (self.calls is None or self.calls.ok)


def verify_folder(
    folder: Path, progress: Progress, *, calls: bool = False, base_dir: Path | None = None, trust: bool = False
) -> Verified:
    """Prove the cut that a checkpoint folder holds, on a fresh instance of its dense network.

    The proof gives all weights noise, so nothing is trained.

    Args:
        folder: the folder that ``prunus prune`` or ``prunus apply`` wrote.
        progress: reports every long step.
        calls: make the table of calls too, with the network in the folder.
        base_dir: the folder of relative paths in its recipe; by default that of the recipe, if it is still there,
            else the working folder.
        trust: run the code, and read the files outside of the folder, that its recipe names.

    Raises:
        ModelError: no checkpoint there, or a damaged one.
        UsageError: it holds no recipe, from which its dense network could be built; or one that
            needs code or files, and is not trusted.
        PlanError: the recipe builds another network than the one that was cut.
        VerifyError: cut and masked network differ.
    """
    recipe = _recipe(folder, base_dir, trust)
    plan = Plan.load(folder)
    plan = replace(plan, settings={k: v for k, v in plan.settings.items() if k != FRESH})
    analysis = _dense(recipe, progress)
    found = realise(analysis, plan, repair=None, progress=progress)
    assert found.check is not None
    if not calls:
        return Verified(found.check, None)
    stored = load(folder, copy.deepcopy(analysis.user_model))
    return Verified(found.check, check_calls(replace(found, model=stored), progress=progress))


def _dense(recipe: Recipe, progress: Progress) -> Analysis:
    """Return the analysis of a fresh dense network of the recipe, without training."""
    try:
        fresh = resolve_model(recipe.model, recipe.model_args, recipe.base_dir, recipe.checkpoint, seed=recipe.seed)
        return trained_model(recipe, recipe.seed, progress, weights=fresh.state_dict()).analysis
    except (ModelError, DataError) as error:
        raise type(error)(
            f"{error} Relative paths of the recipe start from {str(recipe.base_dir.resolve())!r}; give --base for "
            "another folder."
        ) from error


def _recipe(folder: Path, base_dir: Path | None, trust: bool) -> Recipe:
    from pydantic import ValidationError

    from prunus.experiments.recipe import Recipe

    if (folder / RECIPE).is_file() and not (folder / HEADER).is_file():
        raise UsageError(
            f"{folder} is a plan folder, not a checkpoint; first cut: prunus apply {shlex.quote(str(folder))} -o small."
        )
    stored = read_header(folder).metadata
    values = stored.get("recipe")
    if values is None:
        raise UsageError(
            f"{folder} holds no recipe, which says how its dense network is built; in Python: prunus.verify(outcome), "
            "prunus.check_calls(outcome)."
        )
    if base_dir is None:
        own = folder.resolve() / str(stored.get("base_dir", ""))
        base_dir = own if "base_dir" in stored and own.is_dir() else Path()
    try:
        recipe = Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError(f"the recipe in {folder} cannot be read: {str(error).splitlines()[0]}.") from error
    return trusted_recipe(recipe, folder, base_dir, trust)
