"""Damage of single decisions beside that of the whole plan, and a search that never ends worse than it began."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from factories_analysis import analysis_of
from factories_digits import fresh_subject
from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import parse_budget, unit_problem
from prunus.errors import OptionError
from prunus.experiments.workloads import Split
from prunus.methods import METHODS
from prunus.methods.layer_wise import masked_loss
from prunus.methods.loss_search import LossSearch
from prunus.methods.scored_units import unit_scores
from prunus.pipeline.damage import measure_damage, with_damage
from prunus.plans import Decision
from prunus.report.plan_table import damage_lines, plan_lines


class Two(nn.Module):
    """Two towers whose outputs are added: mean squared damages of their units are known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.left, self.right = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            for module in (self.a, self.b):
                module.weight.copy_(torch.eye(2))
            for module in (self.left, self.right):
                module.weight.copy_(torch.tensor([[1.0, 2.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(self.a(x)) + self.right(self.b(x))


def two() -> Analysis:
    data = Split(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.tensor([6.0, 2.0])[:, None])
    return analysis_of(Two(), torch.zeros(2, 2), data, data, loss=F.mse_loss)


def test_damages_of_two_towers_are_those_computed_by_hand() -> None:
    it = two()
    keep = {f"{name}:out": np.array([False, True]) for name in "ab"}
    decisions = [Decision(axis, "unit", 1, 2, "by hand") for axis in keep]
    plan = make_plan(it.coupling, keep, decisions=decisions, cost=it.cost)
    found = measure_damage(it, plan)
    # One tower without its first unit misses 1 of the output; both miss 2, and 2² is twice 1² + 1².
    assert found.dense == pytest.approx(0.0)
    assert found.singles == pytest.approx({"a:out": 1.0, "b:out": 1.0})
    assert found.together == pytest.approx(4.0)
    assert found.ratio == pytest.approx(2.0)
    told = with_damage(plan, found)
    assert [d.damage for d in told.decisions] == [pytest.approx(1.0)] * 2
    (line,) = damage_lines(told)
    assert line == "loss before recovery 0 → +4; the decisions one by one +2: R = 2.00"
    assert any("loss +1" in text for text in plan_lines(told))


def test_every_level_has_its_damage() -> None:
    it = fresh_subject()
    methods = ["depth", "sensitivity", "importance-weighted"]
    plan = METHODS.get("integrated").plan(it, it.limits(0.3), methods=methods)
    found = measure_damage(it, plan)
    assert set(found.singles) == {d.node for d in plan.decisions}
    assert {d.level for d in plan.decisions} >= {"unit", "weight"}
    assert found.together > max(found.singles.values()) / 2


def test_a_plan_of_nothing_has_no_ratio() -> None:
    it = two()
    found = measure_damage(it, make_plan(it.coupling, {}, cost=it.cost))
    assert found.together == pytest.approx(0.0)
    assert found.ratio is None


def test_a_search_ends_no_worse_than_its_allocator_and_within_the_budget() -> None:
    it = fresh_subject()
    scores = unit_scores(it, "magnitude")
    limits = parse_budget({"params": 0.4}, it.cost.price())
    problem = unit_problem(it.cost, scores, limits)
    search = LossSearch(it, "uniform", 12)
    counts = search(problem)
    batches = list(it.selection.batches(256))
    dense = masked_loss(it, {}, batches)
    rise = masked_loss(it, problem.masks(counts), batches) - dense
    told = search.report()
    assert rise == pytest.approx(told["rise_after"], rel=1e-5)
    assert told["rise_after"] <= told["rise_before"]
    assert problem.fits(counts)
    assert search(problem) == counts
    assert search.__name__ == "uniform+search"
    with pytest.raises(OptionError, match="evaluations is 2"):
        LossSearch(it, "uniform", 2)
