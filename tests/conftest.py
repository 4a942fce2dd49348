"""Shared by all tests: the factories in this folder are importable, torch keeps to one thread, the cache is fresh.

A test that hangs or kills its worker ends the run: `watching`, and the timeouts in ``pyproject.toml``.

Every test, and every file while its tests are collected, starts from the same random state, whatever ran before it and
in whichever worker; PRUNUS_TEST_SEED gives another one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

pytest_plugins = ["watching"]
torch.set_num_threads(1)
SEED = int(os.environ.get("PRUNUS_TEST_SEED", "0"))


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def pytest_collectstart() -> None:
    """Seed what a test file draws while it is read, its parameters for one."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed before any fixture of the test is made, those of its file included."""
    _seed()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    before = os.environ.get("PRUNUS_CACHE")
    os.environ["PRUNUS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        os.environ.pop("PRUNUS_CACHE")
    else:
        os.environ["PRUNUS_CACHE"] = before


@pytest.fixture(autouse=True)
def short_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let repairs that train the whole network take few steps."""
    monkeypatch.setattr("prunus.repair.effort.MATCHING_STEPS", 60)
