"""``prunus apply PLAN``: cut exactly as a plan folder says, and verify the cut."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, TrustOption
from prunus.cli.work import check_out


def apply(
    plan: Annotated[Path, typer.Argument(help="The folder that prunus plan wrote.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the smaller network.")] = Path("prunus-small"),
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Cut the network exactly as the plan says, verify it, and write a checkpoint."""
    from prunus.exporters.header import CHECKPOINT

    check_out(out, CHECKPOINT)
    from prunus.experiments.commands import apply_folder, read_plan_folder
    from prunus.report.plan_table import price_lines

    with shown_progress() as progress:
        applied = apply_folder(read_plan_folder(plan, trust=trust), out, progress)
    for line in applied.edits:
        sys.stdout.write(f"edited: {line}\n")
    for line in price_lines(applied.outcome.plan):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"{applied.outcome.check}\n")
    sys.stderr.write(f"checkpoint: {out} (python: prunus.load({str(out)!r}, fresh_model))\n")
