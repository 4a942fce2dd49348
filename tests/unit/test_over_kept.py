"""Reductions over an axis that is cut: named with their line in plan and result; norms are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import prunus
from prunus.report.plan_table import price_lines

WORDS = "over what is kept: "


class Pieces(nn.Module):
    """A maximum over four neighbours; rewritten, the cut takes some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 80), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x).view(x.shape[0], 20, 4).amax(2))
        return out


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return functional.conv2d(x, w, self.bias, padding=1)


class SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        seen = self.gate(torch.cat([h.mean(1, True), h.amax(1, True)], 1)).sigmoid()
        out: Tensor = self.b((h * seen).mean((2, 3)))
        return out


class ByHand(nn.Module):
    """A layer norm and an RMS norm without torch's own ops."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.scale, self.other = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        mean = h.mean(-1, keepdim=True)
        spread = ((h - mean) ** 2).mean(-1, keepdim=True)
        h = self.b((h - mean) * torch.rsqrt(spread + 1e-6) * self.scale)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * self.other
        out: Tensor = self.c(h)
        return out


def lines(model: nn.Module, x: Tensor, **options: Any) -> tuple[list[str], prunus.Outcome]:
    made = prunus.prune(model.eval(), x, budget={"params": 0.6}, **options)
    return [line for line in made.notes if line.startswith(WORDS)], made


def masked_outputs(model: nn.Module, plan: prunus.Plan, x: Tensor) -> Tensor:
    import copy

    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, dims in plan.keep.items():
            parameter = other.get_parameter(name)
            for dim, kept in dims.items():
                gone = torch.ones(parameter.shape[dim], dtype=torch.bool)
                gone[torch.as_tensor(kept)] = False
                parameter.index_fill_(dim, gone.nonzero().flatten(), 0.0)
        out: Tensor = other(x)
    return out


def apart(made: prunus.Outcome) -> float:
    (line,) = (note for note in made.notes if note.startswith("outputs differ by "))
    return float(line.split()[3].rstrip("%")) / 100


@pytest.mark.parametrize(
    ("make", "shape", "options", "ops"),
    [
        (Pieces, (5, 12), {"forward": "rewrite"}, ["amax"]),
        (SpatialGate, (4, 3, 8, 8), {}, ["mean", "amax"]),
        (
            lambda: nn.Sequential(Standardised(3, 16, 3), nn.ReLU(), Standardised(16, 8, 3)),
            (2, 3, 6, 6),
            {},
            ["mean", "std"],
        ),
    ],
)
def test_reductions_over_what_is_kept_are_named_with_their_line_and_the_difference(
    make: Any, shape: tuple[int, ...], options: dict[str, Any], ops: list[str]
) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    found, made = lines(model, x, **options)
    assert [line.removeprefix(WORDS).split(",")[0] for line in found] == ops
    assert all("test_over_kept.py:" in line and "/" not in line for line in found)
    assert all(line in str(made) for line in found)
    with torch.no_grad():
        theirs = masked_outputs(model, made.plan, x)
        wanted = float((made.model(x) - theirs).norm() / theirs.norm())
    assert apart(made) == pytest.approx(wanted, abs=1e-4)
    assert wanted > 1e-3


def test_norms_are_meant_to_run_over_what_is_there() -> None:
    torch.manual_seed(0)
    assert not lines(ByHand(), torch.randn(4, 6))[0]
    fused = nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8), nn.RMSNorm(8), nn.Linear(8, 3)
    )
    assert not lines(fused, torch.randn(4, 6))[0]


def test_sums_and_axes_that_stay_are_not_named() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            out: Tensor = self.b(h) + h.sum(-1, keepdim=True) + x.mean()
            return out

    torch.manual_seed(0)
    found, made = lines(Sums(), torch.randn(4, 6))
    assert not found
    assert not any(note.startswith("outputs differ") for note in made.notes)


def test_the_plan_and_its_table_name_the_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = prunus.plan(SpatialGate().eval(), torch.randn(4, 3, 8, 8), budget={"params": 0.6})
    plan.save(tmp_path / "plan")
    stored = json.loads((tmp_path / "plan" / "plan.json").read_text())["settings"]["over_kept"]
    assert [line.split(",")[0] for line in stored] == [f"{WORDS}mean", f"{WORDS}amax"]
    assert set(stored) <= set(price_lines(plan))
