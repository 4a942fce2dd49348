"""``prunus compare RECIPE``: the same comparison for the user's own model and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.options import CalibrationOption, DebugOption, EffortOption, MemoryLimitOption, TimeLimitOption
from prunus.cli.work import carry_out, show_plan
from prunus.errors import OptionError


def compare(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and report.html.")] = None,
    seed: Annotated[int | None, typer.Option(help="First seed.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Method names with commas, 'levels' (one or two of each level) or 'all'.")
    ] = None,
    kept: Annotated[str | None, typer.Option(help="Kept fractions with commas, such as 0.5,0.1.")] = None,
    repair: Annotated[
        str | None, typer.Option(help="Repairs with commas, such as none,refold: each method meets each.")
    ] = None,
    effort: EffortOption = None,
    time_limit: TimeLimitOption = None,
    memory_limit: MemoryLimitOption = None,
    calibration: CalibrationOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check recipe, model and data, print the runs, do none.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Compare pruning methods as the recipe says; options take precedence over the recipe."""
    from prunus.experiments.recipe import load_recipe, override

    changed = override(
        load_recipe(recipe),
        {
            ("seed",): seed,
            ("calibration",): calibration,
            ("effort",): effort,
            ("time_limit",): time_limit,
            ("memory_limit",): memory_limit,
            ("compare", "seeds"): seeds,
            ("compare", "methods"): _names(methods),
            ("compare", "kept"): _fractions(kept),
            ("compare", "repair"): repair and [name.strip() for name in repair.split(",") if name.strip()],
        },
    )
    folder = out if out is not None else changed.out_dir
    if dry_run:
        show_plan(changed, folder, as_json=json)
    else:
        carry_out(changed, folder, as_json=json)


def _names(text: str | None) -> str | list[str] | None:
    if text is None or text.strip() in ("levels", "all"):
        return text and text.strip()
    return [name.strip() for name in text.split(",") if name.strip()]


def _fractions(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise OptionError(
            f"--kept: got {text!r}; allowed: fractions between 0 and 1 with commas, such as 0.5,0.3,0.1."
        ) from error
