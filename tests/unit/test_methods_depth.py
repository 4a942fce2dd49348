"""Depth and its replay: the branch that goes is the one the true loss misses least, and the loss is the true one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from factories_analysis import analysis_of, planned_by
from factories_tree import Hybrid
from prunus.analysis import Analysis
from prunus.budget import fit_units
from prunus.errors import BudgetError, DataError
from prunus.experiments.workloads import Split
from prunus.methods.depth import shallower
from prunus.methods.masked_copy import live_axes, masked_copy
from prunus.methods.masked_run import Replay
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.methods.scored_units import unit_scores
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record


class Blocks(nn.Module):
    """Residual blocks whose branches are scaled by known factors."""

    def __init__(self, *factors: float, width: int = 8) -> None:
        super().__init__()
        self.factors = factors
        self.stem, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in factors
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for factor, block in zip(self.factors, self.blocks, strict=True):
            x = x + block(x) * factor
        return self.head(x)


def subject(model: nn.Module, shape: tuple[int, ...] = (4,), **changes: object) -> Analysis:
    model.eval()
    inputs = torch.randn(30, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = Split(inputs, model(inputs).argmax(-1))
    return analysis_of(model, inputs[:3], data, data, forward="rewrite", **changes)  # type: ignore[arg-type]


def blocks(*factors: float) -> Analysis:
    torch.manual_seed(0)
    return subject(Blocks(*factors))


def cut_loss(it: Analysis, plan: Plan) -> float:
    small, _ = cut_with_record(it.model, it.coupling, plan, it.example_inputs)
    inputs, targets = next(iter(it.selection.batches(30)))
    with torch.no_grad():
        return float(it.loss(small(inputs), targets))


def test_the_replayed_loss_is_that_of_the_cut_network() -> None:
    torch.manual_seed(0)
    it = subject(Hybrid(), (3, 8, 8))
    reduction = Reduction.of(it, [b for b in droppable(it) if b.kind == "residual"][:2])
    assert reduction is not None
    scores = {a: s for a, s in unit_scores(it, "magnitude").items() if a in live_axes(reduction)}
    plan = reduction.as_plan(fit_units(reduction.cost, scores, it.limit(0.4)))
    found = Replay(it).loss(it.selection, plan)
    assert found == pytest.approx(cut_loss(it, plan), rel=1e-4)
    assert abs(found - cut_loss(it, whole(it).as_plan())) > 1e-3


def test_the_first_to_go_is_the_one_whose_removal_costs_least() -> None:
    it = blocks(2.0, 0.3, 0.05, 1.0)
    single = {b.id: cut_loss(it, whole(it).without(b).as_plan()) for b in droppable(it)}  # type: ignore[union-attr]
    reduction, reasons = shallower(it, whole(it).spent - 1)
    # One branch is more than has to go; down to one branch less, it is exactly one.
    assert reduction.dropped == ()
    reduction, reasons = shallower(it, whole(it).spent - 144)
    assert [b.id for b in reduction.dropped] == [min(single, key=lambda name: single[name])]
    (reason,) = reasons.values()
    assert f"{min(single.values()):.4g}" in reason


def test_losses_are_measured_anew_after_every_removal() -> None:
    it = blocks(2.0, 0.3, 0.05, 1.0)
    reduction = whole(it)
    for _ in range(2):
        tried = [smaller for b in reduction.left(droppable(it)) if (smaller := reduction.without(b))]
        reduction = min(tried, key=lambda r: cut_loss(it, r.as_plan()))
    found, _ = shallower(it, whole(it).spent - 288)
    assert {b.id for b in found.dropped} == {b.id for b in reduction.dropped}


def test_a_network_without_branches_is_trimmed() -> None:
    torch.manual_seed(0)
    it = subject(nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)))
    plan = planned_by("depth", it, 0.5)
    assert plan.drops == ()
    assert plan.after.params <= it.limit(0.5).value


def test_a_budget_out_of_reach_is_refused_with_numbers() -> None:
    with pytest.raises(BudgetError, match=r"least reachable is \d+"):
        planned_by("depth", blocks(1.0, 1.0), 0.01)


def test_batches_of_another_program_are_refused() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.inner(x)
            return self.head(x if len(x) == 3 else x.relu())

    it = subject(Forked())
    with pytest.raises(
        DataError, match=r"runs another program.*; allowed: batches that run a program with the same .*Capture with"
    ):
        Replay(it).loss(it.selection, whole(it).as_plan())


def test_the_masked_copy_computes_what_the_cut_network_does() -> None:
    it = blocks(1.0, 0.5, 2.0)
    reduction = Reduction.of(it, [droppable(it)[1]])
    assert reduction is not None
    keep = {axis: np.arange(it.coupling.axes[axis].size) % 3 > 0 for axis in live_axes(reduction)}
    model, masks = masked_copy(reduction, keep)
    small, _ = cut_with_record(it.model, it.coupling, reduction.as_plan(keep), it.example_inputs)
    inputs = torch.randn(5, 4)
    assert torch.allclose(model(inputs), small(inputs), atol=1e-5)
    assert not torch.allclose(model(inputs), it.model(inputs), atol=1e-2)
    assert {n for n, p in model.named_parameters() if not p.all()} == set(masks)
