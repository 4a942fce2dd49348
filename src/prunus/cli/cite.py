"""``prunus cite RECIPE``: the papers of everything that a recipe uses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prunus.cli.options import DebugOption


def cite(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.", show_default=False)],
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print BibTeX entries, each paper once.")] = False,
    debug: DebugOption = False,
) -> None:
    """Print the papers of the criterion, allocator, methods and repairs that a recipe uses."""
    from prunus.experiments.citation import cite as cite_recipe

    found = cite_recipe(recipe)
    sys.stdout.write((found.bibtex() if bibtex else str(found)) + "\n")
