"""A small network, correlated unlabelled data and a cut of it, for tests of the repair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import prunus
from prunus.graph.coupling import Coupling
from prunus.plans import Plan


class Net(nn.Module):
    """A stem, a residual block with batch norms, a depthwise and a grouped convolution, a layer norm, two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a, self.norm_a = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b, self.norm_b = nn.Conv2d(16, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 16, 1, groups=4)
        self.layer = nn.LayerNorm(16)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.norm_b(self.b(self.norm_a(self.a(x)).relu()))).relu()
        x = self.grouped(self.deep(x).relu()).mean((2, 3))
        out: Tensor = self.head(self.hidden(self.layer(x)).relu())
        return out


def net(seed: int = 0) -> Net:
    """Return the network with statistics that fit its data, in eval mode."""
    torch.manual_seed(seed)
    model = Net()
    model.train()
    with torch.no_grad():
        for number in range(20):
            model(samples(32, number))
    return model.eval()


def samples(count: int, seed: int = 0) -> Tensor:
    """Return pictures that a few directions span: their channels and neighbours tell about each other."""
    generator = torch.Generator().manual_seed(1000 + seed)
    coarse = torch.randn(count, 3, 3, 3, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=8, mode="bilinear")
    return smooth + 0.05 * torch.randn(count, 3, 8, 8, generator=generator)


def cut_half(model: nn.Module, inputs: Any, **options: Any) -> tuple[Coupling, prunus.pipeline.Outcome]:  # type: ignore[name-defined]
    """Return the analysis and the result of pruning by magnitude, without repair."""
    result = prunus.prune(model, inputs, budget=options.pop("budget", {"params": 0.6}), **options)
    return prunus.couple(prunus.capture(model, inputs)), result


def distance(dense: nn.Module, small: nn.Module, inputs: Tensor) -> float:
    """Return ‖dense − small‖² / ‖dense‖² of the outputs."""
    with torch.no_grad():
        wide, narrow = dense(inputs).double(), small(inputs).double()
    return float((wide - narrow).square().sum() / wide.square().sum())


def nothing(model: nn.Module, inputs: Any) -> tuple[Coupling, Plan]:
    """Return the analysis and a plan that removes nothing."""
    coupling = prunus.couple(prunus.capture(model, inputs))
    from prunus.analysis.score import make_plan

    return coupling, make_plan(coupling, {})
