"""The rooms of the house: the contract, the folders and ARCHITECTURE.md name the same ones; prose has subjects."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import prunus

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "prunus"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
OPENINGS = set(re.findall(r"\w+", "what which who whose where when how whether that why from as by of with"))
"""No docstring opens with one of these words: a sentence without a subject would follow."""


def rooms() -> list[str]:
    """Return the rooms of the layer contract, from the top down."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    assert contract["exhaustive"]
    return [room for layer in contract["layers"] for room in layer.split(" | ")]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, and of each string that stands below a constant."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            for statement in getattr(node, field, None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ():
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    text = statement.value.value
                    if isinstance(text, str) and text.strip():
                        yield statement.lineno, text.strip()


def test_the_contract_knows_every_room_and_no_other() -> None:
    found = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(rooms()) == found - {"__init__", "__main__"}


def test_the_table_of_rooms_has_the_order_of_the_contract() -> None:
    table = PAGE.split("## The rooms")[1].split("###")[0]
    assert re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, flags=re.MULTILINE) == rooms()


def test_no_room_has_the_name_of_a_public_function() -> None:
    assert set(rooms()) & set(prunus.__all__) == set()


def test_every_place_that_the_page_names_exists() -> None:
    files = {path.relative_to(ROOT).as_posix() for top in (SOURCE, ROOT / "tests") for path in top.rglob("*.py")}
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", PAGE))
    assert named
    assert {name for name in named if not any(f == name or f.endswith(f"/{name}") for f in files)} == set()
    folders = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*)/`", PAGE))
    assert {
        name
        for name in folders
        if not any((place / name).is_dir() for place in (SOURCE, *SOURCE.iterdir(), ROOT) if place.is_dir())
    } == set()


def test_no_docstring_opens_without_a_subject() -> None:
    headless = []
    for path in sorted(SOURCE.rglob("*.py")):
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            if re.split(r"\W+", text.lstrip("`*("))[0].lower() in OPENINGS:
                headless.append(f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}")
    assert headless == []


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules of prunus that a file imports: at its top, inside functions, for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in whole}
    return found & set(modules)


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }
    edges = {name: imports(path, modules) - {name} for name, path in modules.items()}
    try:
        assert len(tuple(TopologicalSorter(edges).static_order())) == len(modules)
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))
