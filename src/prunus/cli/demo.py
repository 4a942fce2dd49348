"""``prunus demo``: the whole comparison on built-in data, with nothing to prepare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.options import DebugOption
from prunus.cli.work import carry_out


def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path("prunus-demo"),
    seed: Annotated[int, typer.Option(help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds; more than one shows the spread.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as a table.")] = False,
    debug: DebugOption = False,
) -> None:
    """Compare every method on the built-in digits: no data, no network, no GPU."""
    from prunus.experiments.recipe import demo_recipe

    carry_out(demo_recipe(seed=seed, seeds=seeds, out=str(out)), out, as_json=json)
