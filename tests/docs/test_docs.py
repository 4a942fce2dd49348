"""Every code block of README and docs works, and the two READMEs say the same."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from prunus.cli.main import app
from prunus.experiments.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = {command.name for command in app.registered_commands}
# test_founding.py runs each example of these pages alone, behind the networks at their beginning.
RUN_ONE_BY_ONE = {"founding.md", "founding.zh.md"}
# These finish at once and write nothing, so they are run as they stand; the others are checked word by word.
AT_ONCE = {"--version", "--help"}


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    found, language, lines, began = [], None, [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"^\s*```(\S*)", line)
        if fence and language is None:
            language, lines, began = fence[1], [], number
        elif fence:
            found.append(Block(str(language), "\n".join(lines), began))
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page.name}:{began}: the code block never ends"
    return found


def headings(page: Path) -> list[int]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in RUN_ONE_BY_ONE], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    code = [block for block in blocks(page) if block.language == "python"]
    # One process for each page, so that blocks build on each other and pages do not.
    script = "\n".join(
        f"exec(compile({block.code!r}, {f'{page.name}:{block.line}'!r}, 'exec'), globals())" for block in code
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{page.name}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_bash_blocks_name_what_exists(page: Path, tmp_path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+)%?:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for block in blocks(page):
        if block.language != "bash":
            continue
        for line in block.code.splitlines():
            words = shlex.split(line, comments=True)
            where = f"{page.name}:{block.line}: {line}"
            if words[:1] == ["make"]:
                assert all(any(word.startswith(target) for target in targets) for word in words[1:]), where
            elif words[:1] == ["prunus"] and AT_ONCE & set(words):
                assert _prunus(words[1:], tmp_path) == 0, where
            elif words[:1] == ["prunus"]:
                assert words[1] in COMMANDS, where
                # With --help after it every option is still parsed, and nothing is done.
                assert _prunus([*words[1:], "--help"], tmp_path) == 0, where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_valid_recipes(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and "version:" in block.code:
            path = tmp_path / f"{page.name}-{block.line}.yaml"
            path.write_text(block.code, encoding="utf-8")
            assert load_recipe(path).version == 1


def _prunus(words: list[str], folder: Path) -> int:
    command = [sys.executable, "-c", "from prunus.cli.main import app, main; main()", *words]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False
    ).returncode


def test_relative_links_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_chinese_readme_mirrors_the_english_one() -> None:
    if not CHINESE.exists():
        pytest.skip("README.zh-CN.md is not written yet")
    assert headings(CHINESE) == headings(README)
    assert [block[:2] for block in blocks(CHINESE)] == [block[:2] for block in blocks(README)]
