"""All levels from one factorisation, and from one run of what lies before an axis: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories_analysis import analysis_of
from prunus.analysis import Analysis
from prunus.data.programs import Programs
from prunus.data.splits import Split
from prunus.errors import OptionError
from prunus.graph.interpreter import run
from prunus.methods.layer_inputs import Reader, readers_of
from prunus.methods.level_scan import LevelScan
from prunus.methods.levels_from_data import unlabelled
from prunus.plans import Plan, fingerprint
from prunus.solvers import Consumer, refit
from prunus.solvers.nested import nested_refits
from prunus.surgery.proving.verify import masked_tensors, reference_overrides

UNITS = 7


def consumer(seed: int) -> Consumer:
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(80, 20, generator=generator, dtype=torch.float64)
        @ torch.randn(20, 20, generator=generator).double()
    )
    x[:, 3] = 0  # never answers
    unit = torch.randint(-1, UNITS, (20,), generator=generator)
    return Consumer(torch.randn(5, 20, generator=generator).double(), x.T @ x / 80, unit)


@pytest.mark.parametrize("seed", range(4))
def test_levels_are_those_of_refits_one_by_one(seed: int) -> None:
    problem = consumer(seed)
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(seed))[: UNITS - 1]  # one never leaves
    found = nested_refits(problem, order, UNITS, range(1, UNITS + 1), damping=0.02)
    for count, weight in found.items():
        kept = torch.ones(UNITS, dtype=torch.bool)
        kept[order[: UNITS - count]] = False
        wanted = refit(problem.weight, problem.moment, problem.kept_inputs(kept), damping=0.02)
        torch.testing.assert_close(weight, wanted, rtol=1e-9, atol=1e-10)
    with pytest.raises(OptionError, match="1 to 7"):
        nested_refits(problem, order, UNITS, [0])


class Branches(nn.Module):
    """Convolutions with batch norm, ReLU in place, a residual sum and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 1, bias=False)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.b(self.relu(self.a(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_a_scan_of_levels_is_that_of_each_alone_in_any_order() -> None:
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    split = Split(x, torch.zeros(96, dtype=torch.int64), "calibration")
    subject = analysis_of(model, (x[:2],), split, split)
    axes = subject.free_axes()
    assert len(axes) == 2
    scan = LevelScan(subject)
    for name in (*axes, *reversed(axes)):
        axis = subject.coupling.axes[name]
        order = np.random.default_rng(0).permutation(axis.size)
        readers = readers_of(subject, axis)
        found = scan.errors(name, order, [1, 3], readers)
        for error, count in zip(found, [1, 3], strict=True):
            kept = np.isin(np.arange(axis.size), order[axis.size - count :])
            assert error == pytest.approx(LevelScan(subject).error(name, kept, readers), rel=1e-6)
            assert error == pytest.approx(direct(subject, name, kept, readers), rel=1e-4)


def direct(subject: Analysis, name: str, kept: np.ndarray, readers: list[Reader]) -> float:
    """Run the whole program anew with the refitted readers."""
    graph, coupling = subject.coupling.graph, subject.coupling
    plan = Plan(fingerprint(graph), {name: kept}, {})
    own = dict(subject.model.named_parameters()) | dict(subject.model.named_buffers())
    values, shifts = masked_tensors(own, coupling, plan), {}
    for reader in readers:
        new = [refit(c.weight, c.moment, c.kept_inputs(torch.from_numpy(kept)), damping=0.01) for c in reader.consumers]
        site, means = reader.seen.site, reader.seen.moments.mean
        lost = [(c.weight - w) @ mean for c, w, mean in zip(reader.consumers, new, means, strict=True)]
        values[site.tensor] = site.weight(torch.stack(new)).float()
        if reader.seen.shifts:
            shifts[site.node] = torch.cat(lost).float().reshape((1, -1, 1, 1) if site.kind == "conv" else (-1,))
    miss = whole = 0.0
    with torch.no_grad():
        for x, _ in unlabelled(subject).batches():
            batch, flat = Programs(subject.model, coupling).of(x)
            found = run(
                batch.graph,
                values,
                flat,
                override=reference_overrides(batch, plan),
                observe=lambda node, result: result + shifts[node.name] if node.name in shifts else None,
            )
            dense = subject.model(x)
            miss += float((found - dense).double().square().mean())
            whole += float((dense - dense.mean(0)).double().square().mean())
    return miss / whole
