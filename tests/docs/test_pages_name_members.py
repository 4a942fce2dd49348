"""The pages name every enrolled method, repair, strategy and way to recover, with the papers of their docstrings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prunus.experiments.citation import member_sources, references_in
from prunus.foundation.registry import Registry
from prunus.methods import METHODS
from prunus.pruner import STRATEGIES
from prunus.recovery import RECOVERY_METHODS
from prunus.repairs import REPAIRS
from prunus.training import LOSSES
from prunus.training.schedules import KEPT_SCHEDULES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES: list[tuple[str, Registry[Any]]] = [
    ("methods.md", METHODS),
    ("repair.md", REPAIRS),
    ("training.md", STRATEGIES),
    ("training.md", RECOVERY_METHODS),
    ("training.md", KEPT_SCHEDULES),
    ("recipes.md", LOSSES),
]


def section(page: str, heading: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8").split(f"# {heading}\n")[1].split("\n#")[0]


def sources_said(text: str) -> dict[str, set[str]]:
    """Return the arXiv numbers in the table row of each name; a row whose first cell names several counts for none."""
    rows = re.findall(r"^\| `([a-z-]+)`(?: \(also `[a-z-]+`\))? \|(.*)$", text, flags=re.MULTILINE)
    return {name: set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", row)) for name, row in rows}


def papers(member: object) -> set[str]:
    return {paper.arxiv for paper in references_in(member_sources(member)) if paper.arxiv}


@pytest.mark.parametrize(("page", "registry"), PAGES, ids=lambda x: x if isinstance(x, str) else x.role)
def test_every_member_is_named(page: str, registry: Registry[Any]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in registry.names() if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)] == []


@pytest.mark.parametrize(
    ("page", "heading", "registry"),
    [("methods.md", None, METHODS), ("repair.md", "Kinds", REPAIRS), ("training.md", "Strategies", STRATEGIES)],
    ids=["methods", "repairs", "strategies"],
)
def test_tables_cite_what_the_docstrings_cite(page: str, heading: str | None, registry: Registry[Any]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8") if heading is None else section(page, heading)
    said = {name: found for name, found in sources_said(text).items() if name in registry.names() and found}
    assert said
    assert {name: found for name, found in said.items() if not found <= papers(registry.get(name))} == {}
