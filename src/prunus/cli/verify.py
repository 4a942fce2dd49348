"""``prunus verify FOLDER``: verify a checkpoint again, and on request every call that its dense network takes."""

from __future__ import annotations

import json as json_lines
import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.console import shown_progress
from prunus.cli.options import DebugOption, TrustOption


def verify(
    folder: Annotated[Path, typer.Argument(help="What prunus prune or apply wrote.", show_default=False)],
    calls: Annotated[
        bool, typer.Option("--calls", help="Make every call that the dense network takes, and compare.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(help="Folder where relative paths of its recipe start; by default that of the recipe."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the proof and the table as JSON.")] = False,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Prove the cut of a checkpoint again; with --calls train, generate, pad, save and export it too."""
    from prunus.experiments.commands import verify_folder

    with shown_progress() as progress:
        found = verify_folder(folder, progress, calls=calls, base_dir=base, trust=trust)
    if json:
        table = None if found.calls is None else json_lines.loads(found.calls.to_json())
        check = {"ok": found.check.ok, "error": found.check.error, "tolerance": found.check.tolerance}
        sys.stdout.write(json_lines.dumps({"check": check, "calls": table}, indent=1) + "\n")
    else:
        sys.stdout.write(f"{found.check}\n")
        if found.calls is not None:
            sys.stdout.write(f"{found.calls}\n")
    if not found.ok:
        raise typer.Exit(1)
