"""What the benchmarks import exists; they run too long to find out otherwise."""

from __future__ import annotations

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(BENCHMARKS.rglob("*.py"))


def module_file(name: str) -> Path:
    path = BENCHMARKS.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def defined(file: Path) -> set[str]:
    """Return the names that a file binds at its top, and the modules beside it where it is a package."""
    names = {path.stem for path in file.parent.iterdir()} if file.name == "__init__.py" else set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(BENCHMARKS)))
def test_every_import_of_a_benchmark_exists(file: Path) -> None:
    package = ".".join(file.relative_to(BENCHMARKS).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        name = node.module or ""
        if node.level:
            name = ".".join(
                part for part in (*package.split(".")[: len(package.split(".")) - node.level + 1], name) if part
            )
        wanted, place = {alias.name for alias in node.names}, f"{file.name}:{node.lineno}: {name}"
        if name.partition(".")[0] == "prunus":
            module = importlib.import_module(name)
            missing = [w for w in wanted if not hasattr(module, w) and find_spec(f"{name}.{w}") is None]
            assert not missing, f"{place} has no {missing}"
        elif (BENCHMARKS / name.partition(".")[0]).is_dir() or node.level or module_file(name).is_file():
            assert module_file(name).is_file(), place
            assert wanted <= defined(module_file(name)), place
