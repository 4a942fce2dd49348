"""``prunus levels RECIPE``: the tree of a network, with cost, time, sensitivity and redundancy of every node."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption
from prunus.errors import OptionError

if TYPE_CHECKING:
    from prunus.pipeline.levels import LevelRow

_LEVELS = ("stage", "block", "layer", "unit")


def levels(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    stages: Annotated[str, typer.Option(help="How stages are divided: feature, depth or connections.")] = "feature",
    count: Annotated[int | None, typer.Option(help="How many stages, for depth and connections.")] = None,
    level: Annotated[str, typer.Option(help="The innermost level to show: stage, block, layer or unit.")] = "layer",
    groups: Annotated[
        str | None,
        typer.Option(
            help="quantiles:4 or kmeans:3: group the units and weights of every layer by weight, gradient, activation."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print every node as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show cost, time, sensitivity and redundancy of every stage, block, layer and unit of a trained network."""
    if level not in _LEVELS:
        raise OptionError(f"--level: got {level!r}; allowed: {', '.join(_LEVELS)}.")
    from prunus.experiments.recipe import load_recipe
    from prunus.experiments.trained_model import trained_model
    from prunus.methods.hierarchy.groups import parse_grouping
    from prunus.tree import grow_tree
    from prunus.tree.stages import check_division

    check_division(stages, count)
    parse_grouping(groups)

    chosen = load_recipe(recipe)
    with shown_progress() as progress:
        trained = trained_model(
            chosen, chosen.seed, progress, check=lambda dense: grow_tree(dense.coupling, stages, count)
        )
        rows = trained.analysis.levels(stages=stages, count=count, groups=groups, progress=progress)
    if json:
        sys.stdout.write(json_module.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return
    hidden = _LEVELS[_LEVELS.index(level) + 1 :]
    shown = [row for row in rows if row.level not in hidden]
    for line in (*_lines(shown), *_group_lines(shown)):
        sys.stdout.write(line + "\n")


def _group_lines(rows: list[LevelRow]) -> list[str]:
    from prunus.report.plan_table import aligned

    groups = [group for row in rows for group in row.groups]
    if not groups:
        return []
    table = [("group (an address for settings of nodes)", "by", "parts", "least", "most")]
    table += [(g.address, g.value, f"{g.count:,}", f"{g.low:.3g}", f"{g.high:.3g}") for g in groups]
    return ["", *aligned(table, right=range(2, 5))]


def _lines(rows: list[LevelRow]) -> list[str]:
    from prunus.report.plan_table import aligned
    from prunus.tree.addresses import NETWORK

    table = [("node", "level", "kind", "params", "MACs", "bytes", "ms", "loss without it", "redundancy")]
    for row in rows:
        depth = 0 if row.id == NETWORK else row.id.count("/") + 1
        name = "  " * depth + row.id.rpartition("/")[2]
        units = f" × {row.units}" if row.units else ""
        table.append(
            (
                name,
                row.level,
                f"{row.kind}{units}",
                f"{row.params:,}",
                f"{row.macs_forward:,}",
                f"{row.param_bytes:,}",
                "–" if row.milliseconds is None else f"{row.milliseconds:.3f}",
                "–" if row.sensitivity is None else f"{row.sensitivity:+.4f}",
                "–" if row.redundancy is None else f"{row.redundancy:.2f}",
            )
        )
    return list(aligned(table, right=range(3, 9)))
