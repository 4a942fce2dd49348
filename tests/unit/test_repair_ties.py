"""One weight that several layers read is fitted to all of them at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from factories_repair import cut_half, distance
from prunus.repairs import Moments, Site, refit_layers, repair_
from prunus.repairs.find_sites import find_sites
from prunus.repairs.layerwise_run import LayerwiseRun, SiteProblem, run_context
from prunus.repairs.refold import refold


class Shared(nn.Module):
    """A layer called three times with others between; ``own_bias`` gives each call a bias of its own."""

    def __init__(self, own_bias: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 4)
        self.between = nn.Linear(24, 24)
        self.again = nn.Linear(24, 24)
        self.biases = nn.ParameterList([nn.Parameter(torch.randn(24)) for _ in range(3)]) if own_bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for number in range(3):
            bias = self.again.bias if self.biases is None else self.biases[number]
            x = nn.functional.linear(x, self.again.weight, bias).tanh()
            x = self.between(x).relu() if number == 1 else x
        out: Tensor = self.last(x)
        return out


class Pyramid(nn.Module):
    """One convolution over maps of two sizes, as heads of detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        levels = [x, nn.functional.avg_pool2d(x, 2)]
        out: Tensor = sum((self.head(self.shared(level).relu().mean((2, 3))) for level in levels), torch.zeros(()))
        return out


def data(count: int, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[0], shape[0], generator=generator)
    return torch.einsum("ij,bj...->bi...", mix, torch.randn(count, *shape, generator=generator))


CASES = {
    "linear": (lambda: Shared(), (6,)),
    "own biases": (lambda: Shared(own_bias=True), (6,)),
    "conv": (lambda: Pyramid(), (3, 8, 8)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_shared_layer_is_refitted_and_the_network_comes_closer(case: str) -> None:
    torch.manual_seed(0)
    make, shape = CASES[case]
    model = make().eval()
    coupling, result = cut_half(model, data(2, *shape))
    name = "shared.weight" if case == "conv" else "again.weight"
    small, fresh = copy.deepcopy(result.model), data(128, *shape)
    report = repair_(model, small, coupling, result.plan, [data(256, *shape)], repair="refold")
    layer = {found.name: found for found in report.layers}[name]
    assert layer.after < 0.95 * layer.before
    assert "not refitted" not in str(report)
    assert distance(model, small, fresh) < 0.9 * distance(model, result.model, fresh)


def test_the_shared_weight_is_the_optimum_over_all_its_readers() -> None:
    torch.manual_seed(1)
    model = Shared().eval()
    coupling, result = cut_half(model, data(2, 6))
    x = data(64, 6)
    context = run_context(model, coupling, result.plan, [x])
    seen: list[Tensor] = []

    def repair(problem: SiteProblem) -> Mapping[str, Tensor]:
        if getattr(problem.site, "tensor", "") != "again.weight":
            return {}
        moments = problem.all
        fit = refold(
            torch.zeros_like(moments.cross), torch.zeros_like(moments.target), moments, None, shifts=True, grid=(1e-13,)
        )
        seen.append(torch.cat([fit.matrix[0], fit.bias.T], 1))
        assert moments.count == 3 * 64
        return {}

    LayerwiseRun(context, absorb=False, held=False).run(repair)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    small = result.model
    kept = torch.from_numpy(result.plan.keep["again.weight"][0])
    with torch.no_grad():
        wide, narrow = model.first(x).relu(), small.first(x).relu()
        for number in range(3):
            wide = model.again(wide)
            inputs.append(narrow)
            targets.append(wide[:, kept])
            wide, narrow = wide.tanh(), small.again(narrow).tanh()
            if number == 1:
                wide, narrow = model.between(wide).relu(), small.between(narrow).relu()
    rows = torch.cat(inputs).double().numpy()
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    best = np.linalg.lstsq(rows, torch.cat(targets).double().numpy(), rcond=None)[0]
    miss = [float(((rows @ w - torch.cat(targets).numpy()) ** 2).sum()) for w in (best, seen[0].T.numpy())]
    assert len(seen) == 1
    assert miss[1] == pytest.approx(miss[0], rel=1e-6)


def test_a_weight_that_is_read_in_two_ways_has_no_site() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.middle = nn.Embedding(11, 8), nn.Linear(8, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return nn.functional.linear(self.middle(self.words(ids)), self.words.weight)

    graph = prunus.capture(Both().eval(), torch.zeros(2, 3, dtype=torch.int64))
    assert {getattr(site, "tensor", "") for site in find_sites(graph).values()} == {"middle.weight"}


def test_a_walk_of_solvers_leaves_shared_weights_out() -> None:
    model = Shared().eval()
    coupling, result = cut_half(model, data(2, 6))
    seen: list[str] = []

    def at(site: Site, moments: Moments) -> None:
        seen.append(site.tensor)

    refit_layers(model, coupling, result.plan, [data(16, 6)], at)
    assert seen == ["first.weight", "between.weight", "last.weight"]
