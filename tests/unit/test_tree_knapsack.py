"""The method over the tree: the block that does nothing goes, held ones stay, widths are solved for what is left."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.budget import fit_units
from prunus.experiments.workloads import Split
from prunus.methods.scored_units import unit_scores
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import verify


class Blocks(nn.Module):
    def __init__(self, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 12), nn.Linear(12, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in scales)
        with torch.no_grad():
            for block, scale in zip(self.blocks, scales, strict=True):
                block[2].weight.mul_(scale)
                block[2].bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def subject(scales: tuple[float, ...], held: frozenset[str] = frozenset()) -> Analysis:
    torch.manual_seed(0)
    model = Blocks(scales).eval()
    inputs = torch.randn(64, 6)
    with torch.no_grad():
        model.head.weight *= 8
        data = Split(inputs, model(inputs).argmax(-1))
    return analysis_of(model, inputs[:2], data, data, held=held)


def test_the_block_that_does_nothing_goes() -> None:
    for dead in range(3):
        scales = tuple(1e-4 if i == dead else 3.0 for i in range(3))
        it = subject(scales)
        plan = planned_by("tree-knapsack", it, 0.7)
        assert [drop.label for drop in plan.drops] == [f"blocks.{dead}"]
        assert plan.after.params <= 0.7 * it.cost.price().params
        small = cut(it.model, it.coupling, plan, it.example_inputs)
        assert verify(it.model, small, it.coupling, plan, it.example_inputs).ok
        told = [d for d in plan.decisions if d.level == "structure"]
        assert [d.node for d in told] == [f"blocks.{dead}"]


def test_blocks_that_are_held_stay() -> None:
    free = subject((3.0, 1e-4, 3.0))
    held = frozenset(axis for axis in free.coupling.axes if axis.startswith(("blocks.1", "stem")))
    plan = planned_by("tree-knapsack", subject((3.0, 1e-4, 3.0), held), 0.7)
    assert "blocks.1" not in [drop.label for drop in plan.drops]
    assert not held & plan.axes.keys()


def test_without_blocks_it_is_the_knapsack_of_the_units() -> None:
    it = subject(())
    plan = planned_by("tree-knapsack", it, 0.5)
    keep = fit_units(it.cost, unit_scores(it, "sensitivity"), it.limit(0.5), allocator="knapsack")
    assert plan.drops == ()
    assert plan.axes.keys() == {axis for axis, mask in keep.items() if not mask.all()} != set()
    assert all(np.array_equal(mask, keep[axis]) for axis, mask in plan.axes.items())
