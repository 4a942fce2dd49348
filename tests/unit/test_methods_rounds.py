"""Fine-tuning pruning and the pipeline: the rates, what each stage gets to see, and what is left for the next."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from factories_analysis import analysis_of, planned_by
from factories_digits import fresh_subject
from prunus.analysis import Analysis
from prunus.budget import Limit, fit_units
from prunus.errors import BudgetError
from prunus.experiments.workloads import Split
from prunus.masks import top_masks
from prunus.methods import METHODS, fine_tuning
from prunus.methods.fine_tuning import ROUNDS
from prunus.methods.masks_after_units import masks_left
from prunus.methods.reduction import whole
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import maskable
from prunus.training.schedules import DECAY, kept_after


def mlp(*, frozen: bool = False) -> Analysis:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    inputs = torch.randn(48, 5)
    with torch.no_grad():
        data = Split(inputs, model(inputs).argmax(-1))
    model.requires_grad_(not frozen)
    return analysis_of(model, inputs[:2], data, data)


@given(st.floats(0.01, 1.0), st.integers(1, 9))
def test_every_round_prunes_nine_tenths_of_the_rate_before(kept: float, rounds: int) -> None:
    shares = (1.0, *kept_after(kept, rounds))
    rates = [1 - after / before for before, after in itertools.pairwise(shares)]
    assert shares[-1] == kept
    assert len(rates) == rounds
    for before, after in itertools.pairwise(rates):
        assert after == pytest.approx(DECAY * before, abs=1e-9)


def test_the_network_is_trained_between_rounds_and_scored_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    it, seen = mlp(), list[tuple[int, float]]()
    train = fine_tuning.finetune_

    def watched(model: nn.Module, *args: object, **kwargs: object) -> object:
        units = int(model[0].weight.any(1).sum())  # type: ignore[index]
        report = train(model, *args, **kwargs)  # type: ignore[arg-type]
        seen.append((units, float(model[0].weight.detach().norm())))  # type: ignore[index]
        assert int(model[0].weight.any(1).sum()) == units  # type: ignore[index]
        return report

    monkeypatch.setattr(fine_tuning, "finetune_", watched)
    plan = planned_by("fine-tuning-pruning", it, 0.3)
    units, norms = zip(*seen, strict=True)
    assert len(seen) == ROUNDS - 1
    assert list(units) == sorted(units, reverse=True)
    assert len(set(units)) == len(units)
    assert len(set(norms)) == len(norms)
    (keep,) = plan.axes.values()
    assert keep.sum() < units[-1]


def test_a_frozen_network_is_pruned_without_training() -> None:
    it = mlp(frozen=True)
    before = {n: t.clone() for n, t in it.model.state_dict().items()}
    plan = planned_by("fine-tuning-pruning", it, 0.5)
    assert plan.after.params <= it.limit(0.5).value
    assert all(torch.equal(before[n], t) for n, t in it.model.state_dict().items())
    assert not any(p.requires_grad for p in it.model.parameters())


def test_out_of_reach_is_said_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("trained")

    monkeypatch.setattr(fine_tuning, "finetune_", never)
    with pytest.raises(BudgetError, match=r"least reachable is \d+"):
        planned_by("fine-tuning-pruning", mlp(), 0.02)


def test_the_pipeline_gives_each_level_its_part() -> None:
    it = fresh_subject()
    methods = ["depth", "sensitivity", "importance-weighted"]
    plan = METHODS.get("integrated").plan(it, it.limits(0.25), methods=methods)
    total = it.cost.price().params
    assert {d.level for d in plan.decisions} == {"block", "unit", "weight"}
    # Blocks keep the cube root or a little more, units half of the rest of the way.
    blocks = total - sum(d.removed for d in plan.decisions if d.level == "block")
    assert 0.95 * total * 0.25 ** (1 / 3) < blocks < total
    assert plan.after.params <= (blocks * it.limit(0.25).value) ** 0.5
    assert plan.after.params > 0.9 * (blocks * it.limit(0.25).value) ** 0.5
    dead = {name for drop in plan.drops for name in plan.masks if name.startswith(drop.label)}
    assert not dead


def test_masks_lie_on_what_is_left_and_meet_the_budget() -> None:
    it = mlp()
    reduction, scores = whole(it), {n: w.abs() for n, w in maskable(it).items()}
    keep = fit_units(it.cost, unit_scores(it, "magnitude"), it.limit(0.6))
    fifty = Limit("params", 50)
    masks = masks_left(reduction, keep, scores, fifty, lambda left, count: top_masks(left, keep_count=count))
    (units,) = keep.values()
    assert masks["0.weight"][~units].all()
    assert masks["2.weight"][:, ~units].all()
    left = reduction.as_plan(keep).after
    assert left is not None
    assert left.params - sum(int((~m).sum()) for m in masks.values()) == 50
    kept = np.abs(scores["0.weight"].detach().numpy())[units & masks["0.weight"].any(1)]
    assert kept.size
    assert masks_left(reduction, keep, scores, Limit("params", left.params), top_masks) == {}  # type: ignore[arg-type]


def test_masks_that_cannot_meet_the_budget_are_refused() -> None:
    it = mlp()
    scores = {n: w.abs() for n, w in maskable(it).items()}
    with pytest.raises(BudgetError, match=r"params ≤ 20 is out of reach: 19 of 147 cannot be masked"):
        masks_left(whole(it), {}, scores, Limit("params", 20), lambda left, count: top_masks(left, keep_count=count))


def test_a_budget_below_every_stage_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"\d+"):
        planned_by("integrated", mlp(), 0.02)


def test_unit_wise_lets_layers_differ() -> None:
    it = fresh_subject()
    plan = planned_by("unit-wise", it, 0.4)
    shares = [float(m.mean()) for m in plan.axes.values()]
    assert max(shares) - min(shares) > 0.2
