"""Several threads prune at once, their own models and one that they share: as one after the other."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

import prunus


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()


def together(work: list[Callable[[], None]]) -> list[BaseException]:
    failures: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_threads_find_what_one_finds(shared: bool) -> None:
    x, one = torch.randn(2, 3, 8, 8), network()
    models = [one] * 4 if shared else [network() for _ in range(4)]
    alone = prunus.prune(network(), x, budget={"params": 0.5})
    found: list[prunus.Outcome] = []

    def prune(model: nn.Module) -> None:
        found.append(prunus.prune(model, x, budget={"params": 0.5}))

    assert together([functools.partial(prune, model) for model in models]) == []
    assert [outcome.plan == alone.plan for outcome in found] == [True] * 4
    assert all(outcome.check is not None and outcome.check.ok for outcome in found)
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(one(x), network()(x))
    assert prunus.prune(one, x, budget={"params": 0.5}).plan == alone.plan
