"""Dead ops in the user's forward, and hooks on parameters: cut around them, or say that they are gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prunus


class DeadIndex(nn.Module):
    """Picks units by their numbers, and uses the result for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h[:, [7, 1]]
        out: Tensor = self.b(h)
        return out


class DeadReshape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h.reshape(-1, 2, 4).sum()
        out: Tensor = self.b(h.relu())
        return out


@pytest.mark.parametrize("kind", [DeadIndex, DeadReshape])
def test_an_op_that_nothing_needs_stops_no_cut_and_the_cut_is_stored(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(2, 4)
    made = prunus.prune(model, x, budget={"params": 0.6})
    assert made.check is not None
    assert made.after.params < made.before.params
    prunus.save(made, tmp_path / "small")
    again = prunus.load(tmp_path / "small", kind()).eval()
    assert torch.equal(again(x), made.model.eval()(x))
    if made.surgery.program is not None:
        assert "rewritten forward" in str(made)


def hooked(parameter: nn.Parameter, kind: str) -> None:
    if kind == "gradient":
        parameter.register_hook(lambda gradient: gradient * 0)
    else:
        parameter.register_post_accumulate_grad_hook(lambda parameter: None)


@pytest.mark.parametrize("kind", ["gradient", "accumulated"])
def test_hooks_on_parameters_that_are_cut_are_named(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    hooked(model[0].weight, kind)
    made = prunus.prune(model, torch.randn(2, 8), budget={"params": 0.5})
    assert "hooks on parameters do not follow the cut: 0.weight;" in str(made)
    assert "hooks" not in str(
        prunus.prune(nn.Sequential(*map(type_copy, model)), torch.randn(2, 8), budget={"params": 0.5})
    )


def type_copy(module: nn.Module) -> nn.Module:
    return nn.Linear(module.in_features, module.out_features) if isinstance(module, nn.Linear) else nn.ReLU()
