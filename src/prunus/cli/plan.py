"""``prunus plan``: the plan of a recipe with prices and reasons; nothing is cut yet."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, PlanOptions, TrustOption, numbers, takes_plan_options
from prunus.cli.work import check_out
from prunus.errors import OptionError

if TYPE_CHECKING:
    from prunus.analysis import Analysis
    from prunus.experiments.recipe import Recipe
    from prunus.experiments.trained_model import TrainedModel
    from prunus.foundation.progress import Progress
    from prunus.measurement.forecast import Forecast
    from prunus.plans import Plan

_SHOWN = 40


@takes_plan_options
def plan(
    source: Annotated[
        Path,
        typer.Argument(help="A recipe (YAML), or a plan folder to plan again from its scores.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the plan.")] = Path("prunus-plan"),
    *,
    options: PlanOptions,
    damage: Annotated[
        bool | None, typer.Option(help="Measure what every decision costs alone, and all of them together.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="Kept fractions with commas: one plan each, scored once, and what each costs.")
    ] = None,
    pay: Annotated[bool, typer.Option(help="Predict the time on this machine, and say where it will not pay.")] = True,
    picture: Annotated[bool, typer.Option(help="Draw the plan, or the sweep, as an SVG in the folder.")] = True,
    everything: Annotated[bool, typer.Option("--all", help="Show every decision.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Plan what to remove, with the exact price and the reasons; you can edit plan.json before apply."""
    from prunus.experiments.commands.folder import PLAN_FOLDER

    check_out(out, PLAN_FOLDER if sweep is None else None)
    from prunus.cli.sweep import sweep_plans, sweep_recipes
    from prunus.experiments.commands import plan_recipe, read_plan_folder, write_plan_folder
    from prunus.experiments.commands.planning import check_wanted
    from prunus.experiments.recipe import load_recipe, override
    from prunus.experiments.trained_model import trained_model
    from prunus.methods.by_criterion import restore_scores
    from prunus.pipeline.stage_checks import check_limits, check_to_apply

    known = read_plan_folder(source, trust=trust) if source.is_dir() else None
    recipe = load_recipe(source) if known is None else known.recipe
    recipe = override(recipe, {**options.changes(), ("prune", "damage"): damage})
    if sweep is not None and recipe.stages:
        raise OptionError("--sweep plans by one criterion, and the recipe has stages; leave one of the two out.")
    recipes = [recipe] if sweep is None else sweep_recipes(recipe, numbers("--sweep", sweep))
    requests = [check_wanted(each) for each in recipes]

    def check(dense: Analysis) -> None:
        for request in requests:
            check_limits(dense, request)

    check_to_apply(requests[0])
    stored = known.scores_for(recipe) if known is not None else None
    with shown_progress() as progress:
        trained = trained_model(recipe, recipe.seed, progress, known.weights if known else None, check)
        weights = trained.model.state_dict() if trained.trained_here else None
        if sweep is not None:
            if stored:
                restore_scores(trained.analysis, recipe.prune.criterion, stored)
            sweep_plans(trained, recipes, out, weights, as_json=json, picture=picture)
            return
        made, scores = plan_recipe(trained, stored)
        write_plan_folder(out, made, recipe, scores=scores, weights=weights, digest=trained.digest)
        if picture:
            _draw(trained, made, out)
        forecast = _forecast(trained, made, progress) if pay and not json and not made.bridges else None
    _show(made, recipe, out, everything=everything, as_json=json)
    if forecast is not None:
        _show_forecast(forecast)


def _draw(trained: TrainedModel, made: Plan, out: Path) -> None:
    from prunus.analysis.input_size import of_plan
    from prunus.experiments.commands.folder import PICTURE
    from prunus.foundation.atomic_files import list_written
    from prunus.report.pictures import write_picture
    from prunus.report.plan_picture import plan_picture

    title = f"plan for {trained.recipe.model} on {trained.recipe.data}"
    coupling = of_plan(trained.analysis, made).coupling
    list_written(out, PICTURE)
    missing = write_picture(out / PICTURE, lambda: plan_picture(coupling, made, title))
    sys.stderr.write(f"{missing}\n" if missing else f"picture: {out / PICTURE}\n")


def _forecast(trained: TrainedModel, made: Plan, progress: Progress) -> Forecast:
    from prunus.analysis.input_size import of_plan
    from prunus.measurement.forecast import forecast

    analysis = of_plan(trained.analysis, made)
    return forecast(
        analysis.model,
        analysis.coupling,
        analysis.example_inputs,
        made,
        batch=trained.samples,
        threads=trained.recipe.compare.latency.threads,
        progress=progress,
    )


def _show_forecast(found: Forecast) -> None:
    from prunus.measurement.forecast import warnings_of
    from prunus.report.plan_table import forecast_lines

    sys.stdout.write("\n")
    for line in (*forecast_lines(found), *warnings_of(found)):
        sys.stdout.write(line + "\n")


def _show(made: Plan, recipe: Recipe, out: Path, *, everything: bool, as_json: bool) -> None:
    from prunus.experiments.commands.trust import needed_trust

    if as_json:
        sys.stdout.write(json_module.dumps(made.describe(), indent=1) + "\n")
    else:
        from prunus.report.plan_table import plan_lines

        sys.stdout.write(f"plan for {recipe.model} on {recipe.data}\n\n")
        for line in plan_lines(made, most=None if everything else _SHOWN):
            sys.stdout.write(line + "\n")
    trust = " --trust" if needed_trust(recipe, out) else ""
    apply = f"prunus apply {shlex.quote(str(out))} -o small{trust}"
    sys.stderr.write(f"plan: {out / 'plan.json'} (edit it if you like, then: {apply})\n")
