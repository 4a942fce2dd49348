"""The project's own files agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_dependency_is_pinned_exactly() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, equals, version = line.partition("==")
            assert equals, line
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), line
            assert name not in pins, line
            pins[name] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[<>=~!\[ ]", text)[0].lower().replace("_", "-") for text in wanted}
    assert names - set(pins) == set()


def test_makefile_and_changelog_have_what_they_promise() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z%-]+):(?! export)", makefile, flags=re.MULTILINE))
    assert {"setup", "check", "test", "laws", "zoo", "demo", "bench-%", "docs", "nightly", "clean"} <= targets
    assert "torch==2.13.0" in makefile
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_ci_runs_the_same_words() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert [line for line in script.read_text().splitlines() if line.startswith("make")] == [
        "make check test",
        "make laws-avx2",
    ]


def test_every_part_of_the_nightly_run_can_be_run_alone_and_is_named_to_the_reader() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (names,) = re.findall(r"^NIGHTLY := \$\(addprefix nightly-,(.*)\)$", makefile, flags=re.MULTILINE)
    parts = names.split(",")[-1].split()
    assert len(parts) > 3
    for page in ("README.md", "README.zh-CN.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [part for part in parts if f"`{part}`" not in text] == []
    rules = re.findall(r"^nightly-([a-z0-9]+):.*\n(\t.*)?", makefile, flags=re.MULTILINE)
    assert sorted(name for name, _ in rules) == sorted(parts)


def test_the_laws_run_as_on_a_processor_without_avx512() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for setting in ("ONEDNN_MAX_CPU_ISA := AVX2", "ATEN_CPU_CAPABILITY := avx2"):
        assert re.search(rf"^laws-avx2 .*: export {setting}$", makefile, flags=re.MULTILINE)
