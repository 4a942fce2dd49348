"""``prunus diff A B``: the decisions in which two plans differ."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.options import DebugOption


def diff(
    first: Annotated[Path, typer.Argument(help="A plan folder.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another plan folder for the same model.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the difference as JSON.")] = False,
    debug: DebugOption = False,
) -> None:
    """Show which nodes two plans cut differently, and what that does to the price."""
    from prunus.analysis.review import diff_plans
    from prunus.plans import Plan
    from prunus.report.plan_table import diff_lines

    plans = Plan.load(first), Plan.load(second)
    found = diff_plans(*plans)
    if json:
        sys.stdout.write(json_module.dumps(asdict(found), indent=1) + "\n")
        return
    for line in diff_lines(found):
        sys.stdout.write(line + "\n")
