"""A worker that dies or hangs ends the run: red, soon, and with the name of the test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
SECONDS = 60.0
QUIET = 4.0
"""Seconds that a sound run takes on a machine that does nothing else; where it takes longer, so may the others."""


def begin(body: str, folder: Path, behind: int) -> subprocess.Popen[bytes]:
    """Begin a run of a small suite by this project's options."""
    folder.mkdir()
    (folder / "test_suite.py").write_text(SUITE.format(body=body, behind=behind))
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    command += ["-p", "watching", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
    command += ["-o", "timeout=4", "-o", "faulthandler_timeout=7", str(folder)]
    unwanted = ("PYTEST_", "COV_")  # of the run that this is part of
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    environment["PYTHONPATH"] = str(ROOT / "tests")
    with (folder / "out").open("w") as out:  # a child that lives on would hold a pipe open
        return subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.timeout(800)
def test_a_run_ends_red_with_the_name(tmp_path: Path) -> None:
    began = time.monotonic()
    # All at once: they mostly wait. The guilty test is the last one of the suite, or not.
    runs = {way: begin(body, tmp_path / way, number % 2 * 12) for number, (way, body) in enumerate(WAYS.items())}
    runs["sound"] = begin("pass", tmp_path / "sound", 3)
    try:
        assert runs.pop("sound").wait(timeout=600) == 0, (tmp_path / "sound" / "out").read_text()
        allowed = SECONDS * max(1.0, (time.monotonic() - began) / QUIET)
        for way, run in runs.items():
            status = run.wait(timeout=max(1.0, began + allowed - time.monotonic()))
            said = (tmp_path / way / "out").read_text()
            assert status == 1, f"{way}: {said}"
            assert "test_suite.py::test_the_guilty" in said, f"{way}: {said}"
            assert "1 failed" in said, f"{way}: {said}"
    finally:
        for run in runs.values():
            run.kill()
            run.wait()
    assert "16 passed" in (tmp_path / "sound" / "out").read_text()
