"""Public functions do their work wherever a person calls them from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

import prunus
from prunus.data.splits import Split
from prunus.training import TrainingOptions, finetune_

MODES = [torch.no_grad, torch.inference_mode]
Mode = Callable[[], AbstractContextManager[None]]


def task() -> tuple[nn.Module, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3)
    )
    x = torch.randn(128, 8)
    y = x[:, :3].argmax(1)
    finetune_(model, Split(x, y), TrainingOptions(40, 0.02, 32))
    return model.eval(), x, [(x[i : i + 32], y[i : i + 32]) for i in range(0, 128, 32)]


def assert_trains(model: nn.Module, x: torch.Tensor) -> None:
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"repair": "matching"},
        {"recover": {"steps": 8}},
        {"criterion": "taylor", "repair": None},
        {"criterion": "fisher"},
    ],
)
def test_pruning_is_the_same_where_gradients_are_off(mode: Mode, how: dict[str, object]) -> None:
    model, x, batches = task()
    expected = prunus.prune(model, x[:2], budget={"params": 0.5}, data=batches, **how)  # type: ignore[arg-type]
    with mode():
        found = prunus.prune(model, x[:2], budget={"params": 0.5}, data=batches, **how)  # type: ignore[arg-type]
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert_trains(found.model, x)


@pytest.mark.parametrize("mode", MODES)
def test_each_step_by_itself_works_where_gradients_are_off(mode: Mode, tmp_path: Path) -> None:
    model, x, batches = task()
    with mode():
        scored = prunus.analyse(model, x[:2], data=batches)
        plan = scored.plan({"params": 0.5}, criterion="taylor")
        small = prunus.apply(model, plan, x[:2]).model
        prunus.recover_(model, small, batches, {"steps": 8}, plan=plan)
        prunus.repair_(model, small, scored.coupling, plan, batches, repair="matching")
        cut = prunus.prune(model, x[:2], budget={"params": 0.5})
        prunus.save(cut, tmp_path / "cut")
        again = prunus.load(tmp_path / "cut", model)
    assert torch.equal(again(x), cut.model(x))
    assert_trains(small, x)
    assert_trains(again, x)
