"""``prunus prune RECIPE``: plan, cut, verify, recover, measure and report in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, PlanOptions, recovery_of, takes_plan_options
from prunus.cli.work import check_out


@takes_plan_options
def prune(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the smaller network.")] = Path("prunus-small"),
    *,
    options: PlanOptions,
    repair: Annotated[str | None, typer.Option(help="How weights are refitted: auto, refold, …, none.")] = None,
    recover: Annotated[
        list[str] | None,
        typer.Option("--recover", "-r", help="Such as minutes=10, steps=500, method=distil; autopilot by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, training and scores.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    debug: DebugOption = False,
) -> None:
    """Prune the recipe's network, recover it, and write checkpoint, results and report."""
    from prunus.exporters.header import CHECKPOINT

    check_out(out, CHECKPOINT)
    from prunus.experiments.commands import prune_recipe
    from prunus.experiments.recipe import load_recipe, override

    changes = {
        **options.changes(),
        ("prune", "repair"): repair,
        ("seed",): seed,
        **recovery_of(recover),
    }
    with shown_progress() as progress:
        pruned = prune_recipe(override(load_recipe(recipe), changes), out, progress)
    if json:
        sys.stdout.write(pruned.results.to_json())
    else:
        from prunus.report.plan_table import price_lines
        from prunus.report.table import print_table

        for line in price_lines(pruned.outcome.plan):
            sys.stdout.write(line + "\n")
        sys.stdout.write("\n")
        print_table(pruned.results)
        sys.stdout.write(f"{pruned.outcome.check}\n")
    sys.stderr.write(
        f"checkpoint: {out} (python: prunus.load({str(out)!r}, fresh_model)); report: {out / 'report.html'}\n"
    )
