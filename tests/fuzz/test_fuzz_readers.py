"""A short run of ``make fuzz``, and every input that once failed: each is refused in one line or loads whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((Path(__file__).parent / "kept").glob("*/*/files"))
NAMES = ("recipe", "plan", "checkpoint", "training", "pt2", "results", "runs", "trained", "times", "huggingface")


def python(*words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT / "benchmarks"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_every_reader(name: str, tmp_path: Path) -> None:
    done = python("-m", "fuzz.worker", name, "7", "40", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(found["counts"]) <= {"loaded", "refused"}, found
    assert sum(found["counts"].values()) >= 30
    assert found["counts"]["refused"] > 10
    assert found["slowest"] < 5


def test_what_once_failed_is_read_again() -> None:
    done = python("-m", "fuzz", "--again", "--kept", str(Path(__file__).parent / "kept"))
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == len(KEPT) > 0


def test_a_worker_tells_failures_apart(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from fuzz.worker import limit_memory, outcome_of
from prunus.errors import PlanError
import torch

def refuse(text):
    raise PlanError(text)

def allocate():
    torch.zeros(1 << 33)

def in_one_line():
    try:
        allocate()
    except RuntimeError as error:
        raise PlanError("damaged") from error

limit_memory()
tried = [
    lambda: 1, lambda: refuse("one"), lambda: refuse("one\\ntwo"), lambda: refuse("x" * 2000), lambda: 1 / 0,
    lambda: bytes(1 << 33), in_one_line,
]
print([outcome_of(read, 1)[0].split()[0] for read in tried], outcome_of(lambda: 2, 1)[0])
import fuzz.worker
fuzz.worker.SECONDS = 0.2
print(outcome_of(lambda: [i for i in range(10**12) if i < 0])[0].split()[0])
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['loaded', 'refused', 'long', 'long', 'foreign', 'memory', 'memory'] wrong",
        "hang",
    ]
