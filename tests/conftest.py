"""Shared by all tests: the factories in this folder are importable, torch keeps to one thread, the cache is fresh."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


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
