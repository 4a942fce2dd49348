"""The shape of the source: documented, short files, no printing, no bare except."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def sources() -> list[Path]:
    files = sorted((ROOT / "src" / "prunus").rglob("*.py"))
    assert len(files) > 10
    return files


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    for child in node.body:
        if isinstance(child, Documented) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def test_everything_public_has_a_docstring() -> None:
    bare = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sources()
        for name, node in public(ast.parse(file.read_text(encoding="utf-8")))
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_every_module_says_its_one_job() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in sources()
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_no_file_is_too_long() -> None:
    files = [file for folder in ("src", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    long = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if (lines := file.read_text(encoding="utf-8").count("\n")) > LONGEST_FILE
    }
    assert long == {}


def test_the_library_neither_prints_nor_swallows() -> None:
    found = []
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            swallows = isinstance(node, ast.ExceptHandler) and node.type is None
            if prints or swallows:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []
