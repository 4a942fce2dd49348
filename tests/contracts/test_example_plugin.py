"""The example package is built, found by its entry points alone, and passes its own tests, one of every suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from prunus import testing

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugin"
GROUPS = {"criteria", "weight_criteria", "methods", "allocators", "rules", "repairs", "schedules", "exporters"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the package where this Python alone finds it, whatever is installed already."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--no-index", "--target", str(folder), str(PLUGIN)], check=True)
    paths = [str(folder), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PRUNUS_PLUGINS": "on"}


def test_its_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    pytest_alone = [sys.executable, "-m", "pytest", "-c", str(PLUGIN / "pyproject.toml"), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_alone, "-p", "no:xdist", f"--basetemp={tmp_path / 'inner'}", str(PLUGIN / "tests")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 50


def test_it_has_every_kind_and_runs_every_suite() -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    assert set(project["entry-points"]) == {f"prunus.{group}" for group in GROUPS}
    code = (PLUGIN / "tests" / "test_contracts.py").read_text()
    suites = [name for name in testing.__all__ if name.endswith("_suite")]
    assert len(suites) == len(GROUPS)
    for name in suites:
        assert re.search(rf"^Test\w+ = testing\.{name}\(", code, flags=re.MULTILINE), name


def test_a_switch_leaves_it_out(environment: dict[str, str]) -> None:
    code = "from prunus.methods import METHODS; print(METHODS.get('path-units').description)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "remove the units of least path norm, wide layers first"
    off = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PRUNUS_PLUGINS": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Unknown method 'path-units'" in off.stderr
