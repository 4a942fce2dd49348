"""``prunus plan --sweep``: one analysis, a plan for each share, and the cost and loss of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prunus.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from prunus.experiments.recipe import Recipe
    from prunus.experiments.trained_model import TrainedModel


@dataclass(frozen=True, slots=True)
class Point:
    """One plan of a sweep; ``loss`` is measured on the selection split, before any recovery."""

    kept: float
    params: int
    macs_forward: int
    param_bytes: int
    loss: float
    folder: str


def sweep_recipes(recipe: Recipe, shares: Sequence[float]) -> list[Recipe]:
    """Return the recipe with every share of its first metric as budget, the largest first.

    Raises:
        OptionError: a share that is no kept fraction.
    """
    from prunus.experiments.recipe import override

    for share in shares:
        if not 0 < share < 1:
            raise OptionError(f"--sweep: got {share:g}; allowed: kept fractions between 0 and 1, both excluded.")
    metric = next(iter(recipe.prune.budget), "params")
    return [override(recipe, {("prune", "budget"): {metric: share}}) for share in sorted(shares, reverse=True)]


def sweep_plans(
    trained: TrainedModel,
    recipes: Sequence[Recipe],
    out: Path,
    weights: Mapping[str, Tensor] | None,
    *,
    as_json: bool,
    picture: bool = True,
) -> None:
    """Plan for every recipe of `sweep_recipes`, write each folder, draw and print the front."""
    from prunus.analysis.input_size import of_plan
    from prunus.experiments.commands import plan_again, write_plan_folder
    from prunus.methods.true_loss import selection_loss
    from prunus.report.plan_table import aligned

    points = []
    for recipe in recipes:
        ((metric, amount),) = recipe.prune.budget.items()
        share = float(cast(float, amount))  # `sweep_recipes` sets a number
        plan, scores = plan_again(trained, recipe)
        place = out / f"{metric}-{share:g}"
        folder = write_plan_folder(place, plan, recipe, scores=scores, weights=weights, digest=trained.digest)
        loss = selection_loss(of_plan(trained.analysis, plan), plan)
        points.append(
            Point(
                share,
                plan.after.params,
                plan.after.macs_forward,
                plan.after.param_bytes,
                loss,
                str(folder),
            )
        )
    if picture:
        _draw(trained, points, metric, out)
    if as_json:
        sys.stdout.write(json.dumps([asdict(p) for p in points], indent=1) + "\n")
        return
    rows = [(f"{metric} kept", "params", "MACs", "bytes", "selection loss before recovery", "folder")]
    rows += [
        (f"{p.kept:g}", f"{p.params:,}", f"{p.macs_forward:,}", f"{p.param_bytes:,}", f"{p.loss:.4f}", p.folder)
        for p in points
    ]
    for line in aligned(rows, right=range(5)):
        sys.stdout.write(line + "\n")


def _draw(trained: TrainedModel, points: Sequence[Point], metric: str, out: Path) -> None:
    from prunus.methods.true_loss import selection_loss
    from prunus.report.pictures import write_picture
    from prunus.report.sweep_picture import Swept, sweep_picture

    def make() -> str:
        whole = trained.analysis.cost.price()
        dense = Swept(1.0, whole.params, whole.macs_forward, whole.param_bytes, selection_loss(trained.analysis, None))
        swept = [Swept(p.kept, p.params, p.macs_forward, p.param_bytes, p.loss) for p in points]
        return sweep_picture(swept, dense, metric, f"sweep for {trained.recipe.model} on {trained.recipe.data}")

    missing = write_picture(out / "sweep.svg", make)
    sys.stderr.write(f"{missing}\n" if missing else f"picture: {out / 'sweep.svg'}\n")
