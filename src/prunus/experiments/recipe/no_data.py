"""The check of recipes with ``data: noise``: options that need real data."""

from __future__ import annotations

from prunus.experiments.recipe.messages import Finding
from prunus.experiments.recipe.schema import Recipe
from prunus.experiments.recipe.yaml_lines import dotted

NO_DATA = "noise"


def without_data(recipe: Recipe) -> list[Finding]:
    """Return the options of a recipe with ``data: noise`` that need real data; nothing for any other recipe."""
    if recipe.data != NO_DATA:
        return []
    found = []
    if recipe.train.steps:
        found.append(_steps(("train", "steps"), recipe.train.steps))
    if recipe.recover.steps:
        found.append(_steps(("recover", "steps"), recipe.recover.steps))
    if recipe.recover.minutes is not None:
        found.append(_refused(("recover", "minutes"), recipe.recover.minutes, "null"))
    if recipe.frontier.steps or recipe.frontier.minutes:
        found.append(_refused(("frontier",), "budgets of training", "no frontier"))
    for number, stage in enumerate(recipe.stages):
        if stage.trains or stage.recover is not None:
            key = "recover" if not stage.trains else "steps" if stage.steps else "minutes"
            found.append(_refused(("stages", number, key), "training", "stages without training"))
    if "max_drop" in recipe.prune.budget:
        allowed = "a budget that is counted, such as params or macs: a drop on noise says nothing"
        found.append(_refused(("prune", "budget", "max_drop"), recipe.prune.budget["max_drop"], allowed))
    return found


def _steps(path: tuple[str, ...], got: int) -> Finding:
    return _refused(path, got, "0, or data to learn from; with those, calibration: noise still scores without them")


def _refused(path: tuple[str | int, ...], got: object, allowed: str) -> Finding:
    return Finding(path, f"{dotted(path)}: data: noise has nothing to learn from; got {got}; allowed: {allowed}.")
