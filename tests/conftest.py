"""Shared by all tests: the factories in this folder are importable, torch keeps to one thread, the cache is fresh,
members of installed packages are left out.

A test that hangs or kills its worker ends the run: `watching`, and the timeouts in ``pyproject.toml``.

Every test, and every file while its tests are collected, starts from the same random state, whatever ran before it and
in whichever worker; PRUNUS_TEST_SEED gives another one. PRUNUS_TEST_EXAMPLES is how many times as many examples the
laws draw; more than once, and they are drawn anew in every run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

from prunus.repairs.matching import Rounds

pytest_plugins = ["watching"]
torch.set_num_threads(1)
# What is installed beside prunus must not change which members the tests run over.
os.environ["PRUNUS_PLUGINS"] = "off"
SEED = int(os.environ.get("PRUNUS_TEST_SEED", "0"))
EXAMPLES = int(os.environ.get("PRUNUS_TEST_EXAMPLES", "1"))


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def pytest_collectstart() -> None:
    """Seed what a test file draws while it is read, its parameters for one."""
    _seed()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a law draw more examples."""
    law = getattr(item, "obj", None)
    own: settings | None = getattr(law, "_hypothesis_internal_use_settings", None)
    if EXAMPLES > 1 and own is not None:
        law = getattr(law, "__func__", law)
        law._hypothesis_internal_use_settings = settings(
            own, max_examples=own.max_examples * EXAMPLES, derandomize=False, deadline=None
        )


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
    for effort in ("MINUTES", "BEST"):
        monkeypatch.setattr(f"prunus.repairs.choose_repairs.{effort}", Rounds(60))
