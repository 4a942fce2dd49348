"""Dropped segments of concatenations, with every forward kept: their modules answer with no channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunus
from prunus.analysis.score import make_plan
from prunus.nn import Zero


class Inception(nn.Module):
    """Three branches side by side: a sequence, a strided pair of modules, and a functional one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a = nn.Sequential(nn.Conv2d(16, 8, 1, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.b, self.wide = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.c = nn.Conv2d(16, 8, 3, stride=2, padding=1)
        self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.a(x), self.wide(F.relu(self.b(x))), F.silu(self.c(x))], 1)
        out: Tensor = self.head(self.norm(x).mean((2, 3)))
        return out


class Wide(nn.Module):
    """Features beside features, on the last dim."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Sequential(nn.Linear(6, 12), nn.GELU()), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.cat([self.a(x), self.b(x)], -1))
        return out


CASES = {
    "sequence": (Inception, "a.0:out", {"a"}),
    "pair": (Inception, "wide:out", {"b", "wide"}),
    "functional": (Inception, "c:out", {"c"}),
    "features": (Wide, "b.0:out", {"b"}),
}


def inputs(kind: type[nn.Module]) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 8, 8) if kind is Inception else torch.randn(2, 5, 6)


@pytest.mark.parametrize("case", CASES)
def test_a_dropped_segment_rewrites_nothing(case: str, tmp_path: Path) -> None:
    kind, axis, silent = CASES[case]
    x = inputs(kind)
    model = kind().eval()
    analysis = prunus.analyse(model, x)
    others = {a.id: np.arange(a.size) % 3 > 0 for a in analysis.coupling.axes.values() if a.id != axis}
    keep = {**others, axis: np.zeros(analysis.coupling.axes[axis].size, bool)}
    if "b" in silent and kind is Inception:
        keep["b:out"] = np.zeros(4, bool)
    found = prunus.realise(analysis, make_plan(analysis.coupling, keep))
    assert found.surgery.spliced == ()
    assert found.check is not None
    assert found.check.ok
    assert {path for path, m in found.model.named_modules() if isinstance(m, Zero)} == silent
    assert found.plan.after.params == sum(p.numel() for p in found.model.parameters())
    assert found.model(torch.cat([x, x, x])).shape[0] == 6
    found.save(tmp_path / "cut")
    again = prunus.load(tmp_path / "cut", kind())
    assert torch.equal(again.eval()(x), found.model.eval()(x))
    whole = prunus.undo(found)
    assert whole(x).shape == model(x).shape


def test_the_masked_network_misses_the_segment() -> None:
    x = inputs(Inception)
    model = Inception().eval()
    analysis = prunus.analyse(model, x)
    keep = {"a.0:out": np.zeros(8, bool)}
    found = prunus.realise(analysis, make_plan(analysis.coupling, keep))
    assert found.check is not None
    assert found.check.change > 1e-3
