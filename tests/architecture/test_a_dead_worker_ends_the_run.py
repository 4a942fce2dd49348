"""A worker that dies or hangs ends the run: red, soon, and with the name of the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import ctypes, multiprocessing, os, signal, time
import pytest

def forked():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,)).start()

@pytest.mark.parametrize("number", range(12))
def test_before(number):
    time.sleep(0.02)

def test_the_guilty():
    {body}

@pytest.mark.parametrize("number", range({behind}))
def test_behind(number):
    time.sleep(0.02)
"""
WAYS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "killed, a child lives on": "forked(); os.kill(os.getpid(), signal.SIGKILL)",
    "aborted": "os.abort()",
    "hanging": "time.sleep(100)",
    "hanging with the lock held": "ctypes.PyDLL(None).sleep(100)",
}
SECONDS = 60


@dataclass
class Run:
    """A run of its own of a small suite, by this project's options."""

    process: subprocess.Popen[str]
    began: float

    @classmethod
    def of(cls, body: str, folder: Path, behind: int) -> Run:
        folder.mkdir()
        (folder / "test_suite.py").write_text(SUITE.format(body=body, behind=behind))
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
        command += ["-p", "watching", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
        command += ["-o", "timeout=4", "-o", "faulthandler_timeout=7", str(folder)]
        unwanted = ("PYTEST_", "COV_")  # of the run that this is part of
        environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        environment["PYTHONPATH"] = str(ROOT / "tests")
        out = (folder / "out").open("w")  # a child that lives on would hold a pipe open
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
        return cls(process, time.monotonic())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Run, Path]]]:
    """Begin all at once: they mostly wait."""
    folder = tmp_path_factory.mktemp("runs")
    begun = {
        name: (Run.of(body, folder / str(number), behind=0 if number % 2 else 12), folder / str(number))
        for number, (name, body) in enumerate(WAYS.items())
    }
    yield begun
    for run, _ in begun.values():
        run.process.kill()
        run.process.wait()


@pytest.mark.xdist_group("dead workers")
@pytest.mark.parametrize("way", WAYS)
def test_a_run_ends_red_with_the_name(way: str, runs: dict[str, tuple[Run, Path]]) -> None:
    run, folder = runs[way]
    status = run.process.wait(timeout=max(1.0, run.began + SECONDS - time.monotonic()))
    said = (folder / "out").read_text()
    assert status == 1, said
    assert "test_suite.py::test_the_guilty" in said
    assert "1 failed" in said


def test_nothing_is_ended_where_nothing_hangs(tmp_path: Path) -> None:
    run = Run.of("pass", tmp_path / "sound", behind=3)
    assert run.process.wait(timeout=SECONDS) == 0
    assert "16 passed" in (tmp_path / "sound" / "out").read_text()
