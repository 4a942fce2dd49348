"""``prunus frontier RECIPE``: accuracy over minutes of training, and the knee where more time stops paying."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, PlanOptions, numbers, recovery_of, takes_plan_options
from prunus.errors import OptionError


@takes_plan_options
def frontier(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results, report and checkpoints.")] = Path(
        "prunus-frontier"
    ),
    *,
    options: PlanOptions,
    steps: Annotated[str | None, typer.Option(help="Budgets in steps with commas, such as 50,100,200.")] = None,
    minutes: Annotated[str | None, typer.Option(help="Budgets in minutes with commas, such as 0.5,1,2.")] = None,
    rule: Annotated[str | None, typer.Option(help="The rule of the knee: chord or noise.")] = None,
    repair: Annotated[str | None, typer.Option(help="How weights are refitted: auto, refold, …, none.")] = None,
    recover: Annotated[
        list[str] | None, typer.Option("--recover", "-r", help="Other options of the trainings, such as method=distil.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, training and scores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    debug: DebugOption = False,
) -> None:
    """Train the pruned network with growing budgets, and mark the knee; an interrupted run goes on."""
    from prunus.experiments.commands import balance_recipe
    from prunus.experiments.recipe import load_recipe, override
    from prunus.report.pictures import write_picture

    changes = {
        **options.changes(),
        **_budgets(steps, minutes),
        ("frontier", "rule"): rule,
        ("prune", "repair"): repair,
        ("seed",): seed,
        **_training(recover),
    }
    changed = override(load_recipe(recipe), changes)
    with shown_progress() as progress:
        found = balance_recipe(changed, out, progress, lambda line: sys.stderr.write(f"{line}\n"))
    from prunus.report.frontier_picture import frontier_picture

    made = found.balanced.frontier
    missing = write_picture(out / "frontier.svg", lambda: frontier_picture(made))
    sys.stdout.write(found.results.to_json() if json else f"{made}\n")
    picture = missing or f"picture: {out / 'frontier.svg'}"
    sys.stderr.write(
        f"knee: {made.chosen.amount:g} {made.unit}, checkpoint {out / made.chosen.folder}\n"
        f"{picture}; report: {out / 'report.html'}\n"
    )


def _budgets(steps: str | None, minutes: str | None) -> dict[tuple[str, ...], object]:
    if steps is not None and minutes is not None:
        raise OptionError("--steps and --minutes are both given; the budgets of a frontier have one unit.")
    if steps is not None:
        amounts = numbers("--steps", steps)
        broken = next((amount for amount in amounts if amount != int(amount)), None)
        if broken is not None:
            raise OptionError(f"--steps: got {broken:g}; allowed: whole numbers with commas, such as 50,100,200.")
        return {("frontier", "steps"): [int(amount) for amount in amounts]}
    return {("frontier", "minutes"): None if minutes is None else numbers("--minutes", minutes)}


def _training(recover: list[str] | None) -> dict[tuple[str, ...], object]:
    found = recovery_of(recover)
    for key in ("steps", "minutes"):
        if ("recover", key) in found:
            raise OptionError(f"--recover: got {key}; the budgets of a frontier are given by --{key}.")
    return dict(found)
