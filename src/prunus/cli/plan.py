"""``prunus plan``: what would go and why, priced; nothing is changed yet."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import budget_of, numbers
from prunus.cli.work import check_out
from prunus.errors import OptionError

if TYPE_CHECKING:
    from prunus.parent import Parent
    from prunus.pay import Forecast
    from prunus.plans import Plan
    from prunus.progress import Progress
    from prunus.recipe import Recipe

_SHOWN = 40


def plan(
    source: Annotated[
        Path,
        typer.Argument(help="A recipe (YAML), or a plan folder to plan again from its scores.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the plan.")] = Path("prunus-plan"),
    budget: Annotated[
        list[str] | None, typer.Option("--budget", "-b", help="Such as params=0.5, macs=0.3 or bytes=2MB; once each.")
    ] = None,
    criterion: Annotated[str | None, typer.Option(help="How units are scored.")] = None,
    allocator: Annotated[str | None, typer.Option(help="How the budget is divided.")] = None,
    method: Annotated[str | None, typer.Option(help="A whole method instead, such as multi-scale.")] = None,
    search: Annotated[
        int | None,
        typer.Option(help="Try so many plans around the allocator's by their true loss; 200 is a good many."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="data, or noise: score and repair without a single sample.")
    ] = None,
    damage: Annotated[
        bool, typer.Option(help="Measure what every decision costs alone, and all of them together.")
    ] = True,
    sweep: Annotated[
        str | None, typer.Option(help="Kept fractions with commas: one plan each, scored once, and what each costs.")
    ] = None,
    pay: Annotated[bool, typer.Option(help="Predict the time on this machine, and say where it will not pay.")] = True,
    picture: Annotated[bool, typer.Option(help="Draw the plan, or the sweep, as an SVG in the folder.")] = True,
    everything: Annotated[bool, typer.Option("--all", help="Show every decision.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Plan what would go, price it exactly and say why; a person may edit the folder's plan.json before apply."""
    check_out(out)
    from prunus.jobs import (
        check_wanted,
        measure_damage,
        parent_of,
        plan_recipe,
        read_plan_folder,
        scored_parent,
        with_damage,
        write_plan_folder,
    )
    from prunus.recipe import load_recipe, override

    known = read_plan_folder(source) if source.is_dir() else None
    recipe = load_recipe(source) if known is None else known.recipe
    changes: dict[tuple[str, ...], Any] = {
        ("prune", "budget"): budget_of(budget),
        ("prune", "criterion"): criterion,
        ("prune", "allocator"): allocator,
        ("prune", "method"): method,
        ("prune", "search"): search,
        ("calibration",): calibration,
    }
    recipe = override(recipe, changes)
    same = known is not None and all(
        ours == theirs
        for ours, theirs in (
            (recipe.prune.criterion, known.recipe.prune.criterion),
            (recipe.calibration, known.recipe.calibration),
        )
    )
    scored_before = known.scores or None if known is not None and same else None
    if sweep is not None and recipe.stages:
        raise OptionError("--sweep plans by one criterion, and the recipe has stages; leave one of the two out.")
    asked = recipe if sweep is None else override(recipe, {("prune", "budget"): {"params": 0.5}})
    check_wanted(asked, to_apply=True)
    with shown_progress() as progress:
        parent = parent_of(recipe, recipe.seed, progress, known.weights if known else None)
        weights = parent.model.state_dict() if parent.trained_here else None
        if sweep is not None:
            from prunus.cli.sweep import sweep_plans

            scored = scored_parent(parent, scored_before)
            sweep_plans(parent, scored, numbers("--sweep", sweep), out, weights, as_json=json, picture=picture)
            return
        made, scores = plan_recipe(parent, progress, scored_before)
        if damage:
            made = with_damage(made, measure_damage(parent.subject, made, progress))
        write_plan_folder(out, made, recipe, scores=scores, weights=weights)
        if picture:
            _draw(parent, made, out)
        found = _forecast(parent, made, progress) if pay and not json else None
    _show(made, recipe, out, everything=everything, as_json=json, batch=parent.samples)
    if found is not None:
        _show_forecast(found)


def _draw(parent: Parent, made: Plan, out: Path) -> None:
    from prunus.report.pictures import write_picture
    from prunus.report.plan_picture import plan_picture

    title = f"plan for {parent.recipe.model} on {parent.recipe.data}"
    coupling, samples = parent.subject.coupling, parent.samples
    missing = write_picture(out / "plan.svg", lambda: plan_picture(coupling, made, title, samples=samples))
    sys.stderr.write(f"{missing}\n" if missing else f"picture: {out / 'plan.svg'}\n")


def _forecast(parent: Parent, made: Plan, progress: Progress) -> Forecast:
    from prunus.pay import forecast

    subject = parent.subject
    return forecast(subject.model, subject.coupling, subject.example_inputs, made, batch=parent.samples,
                    threads=parent.recipe.compare.latency.threads, progress=progress)  # fmt: skip


def _show_forecast(found: Forecast) -> None:
    from prunus.pay import warnings_of
    from prunus.report.plan_table import forecast_lines

    sys.stdout.write("\n")
    for line in (*forecast_lines(found), *warnings_of(found)):
        sys.stdout.write(line + "\n")


def _show(made: Plan, recipe: Recipe, out: Path, *, everything: bool, as_json: bool, batch: int) -> None:
    if as_json:
        sys.stdout.write(json_module.dumps(made.describe(), indent=1) + "\n")
    else:
        from prunus.report.plan_table import plan_lines

        sys.stdout.write(f"plan for {recipe.model} on {recipe.data}\n\n")
        for line in plan_lines(made, batch=batch, most=None if everything else _SHOWN):
            sys.stdout.write(line + "\n")
    sys.stderr.write(f"plan: {out / 'plan.json'} (edit it if you like, then: prunus apply {out} -o small)\n")
