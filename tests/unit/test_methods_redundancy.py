"""Redundancy: cosines and alignment against brute force, and planted twins that must go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.errors import BudgetError, DataError
from prunus.experiments.workloads import Split
from prunus.methods.redundancy import without_twins
from prunus.methods.similarity import Alignment, distinctness, unit_gram


class Twins(nn.Module):
    """Three branches read one stream; the third is the second at half its size."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.a, self.b, self.c = (nn.Linear(width, width) for _ in range(3))
        with torch.no_grad():
            self.c.weight.copy_(self.b.weight / 2)
            self.c.bias.copy_(self.b.bias / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.a(x).tanh() + self.b(x) + self.c(x))


def subject(model: nn.Module, samples: int = 40, **changes: object) -> Analysis:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, 4, generator=generator)
    data = Split(inputs, torch.randint(3, (samples,), generator=generator))
    return analysis_of(model.eval(), inputs[:3], data, data, **changes)  # type: ignore[arg-type]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def slow_distinctness(gram: np.ndarray) -> np.ndarray:
    norms, scores = np.sqrt(np.diag(gram)), np.full(len(gram), 2.0)
    cosines, so_far, left = gram / np.outer(norms, norms), 0.0, list(range(len(gram)))
    while len(left) > 1:
        _, i, j = max((cosines[i, j], i, j) for k, i in enumerate(left) for j in left[k + 1 :])
        so_far = max(so_far, min(max(1 - cosines[i, j], 0.0), 2.0))
        goes = min((i, j), key=lambda u: norms[u])
        scores[goes] = so_far
        left.remove(goes)
    return scores


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10_000))
def test_distinctness_is_that_of_the_slow_way(units: int, features: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(units, features + 1))
    assert np.allclose(distinctness(rows @ rows.T), slow_distinctness(rows @ rows.T))


def test_the_gram_counts_what_writes_and_what_reads_a_unit() -> None:
    it = subject(mlp())
    (axis,) = it.coupling.axes.values()
    weights = {n: p.detach() for n, p in it.model.named_parameters()}
    w, v = weights["0.weight"].double(), weights["2.weight"].double().T
    expected = 6 * (w @ w.T / w.square().sum() + v @ v.T / v.square().sum())
    assert np.allclose(unit_gram(it.coupling, axis, weights), expected)


def test_units_that_are_copies_go_first() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[1] * 0.5
        model[2].weight[:, 4] = model[2].weight[:, 1] * 0.5
    it = subject(model)
    plan = planned_by("redundancy", it, 45 / 51)
    (keep,) = plan.axes.values()
    assert np.flatnonzero(~keep).tolist() == [4]
    assert "cosine 1.00" in plan.decisions[0].reason


def test_units_without_weights_are_like_any_other() -> None:
    gram = np.diag([1.0, 0.0, 1.0])
    scores = distinctness(gram)
    assert scores[1] == 0
    assert scores[[0, 2]].min() == pytest.approx(1.0)


def test_alignment_is_blind_to_rotation_and_scale_only() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(200, 6).double(), torch.randn(200, 6).double()
    turn = torch.linalg.qr(torch.randn(6, 6).double()).Q
    alignment = Alignment()
    for part in (slice(0, 80), slice(80, 197), slice(197, 200)):
        alignment.add({"x": x[part], "turned": 3 * x[part] @ turn, "y": y[part], "flat": torch.ones(200, 2)[part]})
    assert alignment.cka("x", "turned") == pytest.approx(1.0)
    assert alignment.cka("turned", "x") == alignment.cka("x", "turned")
    assert abs(alignment.cka("x", "y")) < 0.1
    assert alignment.cka("x", "flat") == 0
    assert alignment.energy("turned") == pytest.approx(9 * alignment.energy("x"))


def test_alignment_needs_samples() -> None:
    alignment = Alignment()
    alignment.add({"x": torch.randn(3, 2)})
    with pytest.raises(DataError, match="4 samples"):
        alignment.cka("x", "x")


def test_of_twin_branches_the_weaker_goes() -> None:
    torch.manual_seed(0)
    it = subject(Twins())
    total = it.cost.price().params
    reduction, reasons = without_twins(it, total - 72)
    assert [b.id for b in reduction.dropped] == ["c"]
    assert reasons["c"].startswith("does what b does")
    plan = planned_by("redundancy", it, 0.4)
    assert [drop.label for drop in plan.drops] == ["c"]
    assert plan.after.params <= it.limit(0.4).value


def test_no_branch_goes_that_is_like_none_or_more_than_has_to() -> None:
    torch.manual_seed(0)
    it = subject(Twins())
    total = it.cost.price().params
    assert without_twins(it, total - 72, alike=1.01)[0].dropped == ()
    assert without_twins(it, total - 10)[0].dropped == ()
    held = frozenset(it.coupling.axes)
    assert without_twins(subject(it.model, held=held), total - 72)[0].dropped == ()


def test_a_budget_out_of_reach_is_refused_with_numbers() -> None:
    with pytest.raises(BudgetError, match=r"least reachable is \d+"):
        planned_by("redundancy", subject(mlp()), 0.01)
