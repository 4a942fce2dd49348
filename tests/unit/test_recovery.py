"""Recovery: every way lowers the held-out loss, the autopilot chooses and tells, and what cannot be is refused."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import prunus.recovery.autopilot as autopilot
from factories_recovery import CLASSES, EXAMPLE, FEATURES, analysed, case, cut_by, dense, half_plan, task
from prunus.analysis.score import make_plan
from prunus.data.sources import Split
from prunus.errors import DataError, ModelError, OptionError, OutcomeError, UsageError
from prunus.pipeline.recovering import recover_
from prunus.recovery import RECOVERY_METHODS, RecoveryOptions, RecoveryTask, recovered_
from prunus.recovery.block_matching import find_block_pairs
from prunus.recovery.recovery_method import RecoveryMethod
from prunus.recovery.step_budget import StepBudget
from prunus.recovery.watched_training import AttemptSettings, BestState, watched_training
from prunus.surgery.cut import cut_with_record
from prunus.training import TrainingOptions
from prunus.tree import find_branches


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", RECOVERY_METHODS.names())
def test_every_way_lowers_the_held_out_loss(method: str) -> None:
    it = case({"steps": 24, "method": method})
    report = recovered_(it)
    assert report.after < 0.97 * report.before
    assert report.after == pytest.approx(it.measure())
    assert report.steps == (24 if RECOVERY_METHODS.get(method).trained else 0)


def test_hints_train_projections_and_lower_the_loss() -> None:
    it = case({"steps": 24, "method": "distil", "hints": 1.0, "temperature": 4.0})
    assert recovered_(it).after < 0.9 * case({"steps": 1}).measure()


def test_blocks_learn_without_labels_and_only_inside() -> None:
    wrong = Split(task()[0].inputs, torch.zeros(len(task()[0]), dtype=torch.long))
    states = []
    for train in (task()[0], wrong):
        it = case({"steps": 6, "method": "blocks"}, train=train)
        recovered_(it)
        states.append(it.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_places_are_blocks_with_the_positions_that_stayed() -> None:
    places = find_block_pairs(case({"steps": 1}))
    assert [place.first for place in places] == ["stem", "blocks.0", "blocks.1", "blocks.2", "head"]
    kept = places[0].kept[1]
    assert kept is not None
    assert kept.tolist() == list(range(12))
    assert places[0].goal(torch.arange(48.0).reshape(2, 24)).tolist() == [list(range(12)), list(range(24, 36))]


def test_a_dropped_block_is_answered_for_by_the_one_before() -> None:
    drops = [b.drop for b in find_branches(analysed()) if b.id == "blocks.1" and b.drop]
    plan = make_plan(analysed(), {}, drops)
    small, _ = cut_with_record(dense(), analysed(), plan, EXAMPLE)
    places = find_block_pairs(case({"steps": 1}, plan=plan, model=small))
    assert [(place.last, place.dense) for place in places][1:3] == [("blocks.0", "blocks.1"), ("blocks.2", "blocks.2")]


def test_without_labels_the_teacher_takes_their_place_and_it_is_said() -> None:
    plan = half_plan()
    small = cut_by(plan)
    report = recover_(dense(), small, task()[0].inputs, {"steps": 20, "method": "finetune"}, plan=plan)
    assert "no labels" in report.notes[0]
    assert [attempt.method for attempt in report.attempts] == ["finetune", "distil"]
    assert report.after < 0.9 * report.before
    assert "distance to the dense network" in str(report)


def test_masked_weights_stay_zero_whatever_is_tried() -> None:
    it = case({"steps": 12}, masked=True)
    recovered_(it)
    weight, mask = it.model.get_parameter("head.weight"), it.masks["head.weight"]
    assert not weight[~mask].any()
    assert weight[mask].all()


def test_the_dense_network_is_left_as_it_is() -> None:
    before = {name: value.clone() for name, value in dense().state_dict().items()}
    recovered_(case({"steps": 12}))
    assert all(torch.equal(before[name], value) for name, value in dense().state_dict().items())
    assert not any(module.training for module in dense().modules())


def test_the_autopilot_compares_and_goes_on_with_what_paid_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot, "TRIAL_LEAST", 3)
    report = recovered_(case({"steps": 60}))
    trials = [attempt for attempt in report.attempts if attempt.reason.startswith("trial")]
    assert sorted(attempt.method for attempt in trials) == ["blocks", "distil", "finetune"]
    assert sum(attempt.kept for attempt in trials) == 1
    assert report.steps == sum(attempt.steps for attempt in report.attempts) <= 60
    assert [attempt.method for attempt in report.attempts][:2] == ["statistics", "refold"]
    text = str(report)
    assert text.startswith(f"held-out loss {report.before:.4f} → {report.after:.4f} in {report.steps} steps")
    assert len(text.splitlines()) == 1 + len(report.attempts)


def idle(given: RecoveryTask, options: TrainingOptions, watch: Any) -> None:
    for done in range(1, options.steps + 1):
        if watch(done, options.steps) is True:
            return


def test_a_leg_that_brings_nothing_ends_early_unless_it_was_asked_for() -> None:
    it = case({"steps": 40, "method": "finetune"})
    recovery_method = RecoveryMethod("idle", True, idle, lambda case: "")
    step_budget = StepBudget(80)
    attempt = watched_training(it, AttemptSettings(recovery_method, 40), BestState(it), step_budget, "test")
    assert (attempt.steps, attempt.kept) == (step_budget.spent, False) == (25, False)
    assert "the rate is too high" in attempt.reason
    assert (
        watched_training(
            it, AttemptSettings(recovery_method, 40, patient=True), BestState(it), step_budget, "test"
        ).steps
        == 40
    )


def test_a_flat_curve_saves_the_rest_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autopilot, "LONG", 40)
    monkeypatch.setattr(autopilot, "FLAT", 0.9)
    monkeypatch.setattr(autopilot, "TRIAL", 0.0)
    report = recovered_(case({"steps": 120}))
    assert report.steps == 60
    assert "the curve is flat; 60 steps are left" in report.attempts[-2].reason


def test_a_loss_that_explodes_is_undone() -> None:
    it = case({"steps": 10, "method": "finetune", "lr": 1e30, "optimizer": "sgd"})
    before = copy.deepcopy(it.model.state_dict())
    report = recovered_(it)
    assert report.after == report.before
    assert all(torch.equal(before[name], value) for name, value in it.model.state_dict().items())
    assert "the loss is" in report.attempts[-1].reason


def test_a_step_free_way_that_brings_nothing_says_what_happened() -> None:
    def unusable(*_: object) -> None:
        raise UsageError("no plan; give one")

    for run, said in ((lambda *_: None, "it changed nothing"), (unusable, "no plan; give one")):
        it = case({"steps": 24})
        attempt = watched_training(
            it,
            AttemptSettings(RecoveryMethod("idle", False, run, lambda _case: "")),
            BestState(it),
            StepBudget(24),
            "costs no steps",
        )
        assert str(attempt) == f"idle        passed over: {said}"


def test_minutes_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, looks = time.perf_counter(), itertools.count()
    it = case({"minutes": 0.02})
    monkeypatch.setattr("prunus.foundation.clock.seconds", lambda: begun + 0.005 * next(looks))
    report = recovered_(it)
    assert 1.0 < report.seconds < 1.5
    assert 20 < report.steps < 1000
    assert report.after < report.before


def test_a_purse_counts_steps_or_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("prunus.foundation.clock.seconds", lambda: now[0])
    step_budget = StepBudget(1000, 1.0, _began=0.0)
    now[0] = 10.0
    step_budget.take(20, 10.0)
    assert step_budget.left == 100
    assert step_budget.price(20, 10.0) == 10.0
    now[0] = 61.0
    assert step_budget.out_of_time
    assert step_budget.left == 0
    assert (StepBudget(30).left, StepBudget(30).price(5, 9.0)) == (30, 5.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one budget"),
        ({"steps": 5, "minutes": 1}, "just one of them"),
        ({"steps": 0}, "0 steps"),
        ({"minutes": 0}, "minutes is 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"step": 5}, "Did you mean 'steps'"),
        ({"steps": 5, "method": "distill"}, "Did you mean 'distil'"),
        ({"steps": 5, "temperature": 0}, "temperature is 0"),
        ({"steps": 5, "soft": 1.5}, "soft is 1.5"),
        ({"steps": 5, "hints": -1}, "hints is -1"),
        ({"steps": 5, "mixed": 2, "soft": 1}, "mixed is 2"),
        ({"steps": 5, "mixed": 0.5}, "mixed samples have no labels, and soft is 0.9"),
        ({"steps": 5, "lr": -1.0}, "lr is -1.0"),
        ({"steps": 5, "dropout": 2}, "dropout is 2"),
        ({"steps": True}, "steps is True"),
    ],
)
def test_bad_requests_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RecoveryOptions.of(given)
    with pytest.raises(OptionError, match="mapping such as"):
        RecoveryOptions.of(5)  # type: ignore[arg-type]


def test_a_teacher_with_other_outputs_is_refused_before_anything_is_trained() -> None:
    other = nn.Sequential(nn.Linear(FEATURES, CLASSES + 1))
    it = case({"steps": 5}, dense=other)
    before = copy.deepcopy(it.model.state_dict())
    with pytest.raises(ModelError, match=r"answers \(8, 4\) where the dense one answers \(8, 5\)"):
        recovered_(it)
    assert all(torch.equal(before[name], value) for name, value in it.model.state_dict().items())


def test_labels_that_do_not_fit_the_loss_are_refused() -> None:
    floats = Split(task()[0].inputs, torch.rand(len(task()[0]), 3))
    with pytest.raises(DataError, match="loss 'cross_entropy' refuses output"):
        recovered_(case({"steps": 5}, train=floats))


def test_regression_is_distilled_by_squares() -> None:
    model, teacher = nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 2)
    inputs = task()[0].inputs
    data = Split(inputs, teacher(inputs).detach())
    report = recover_(teacher, model, data, {"steps": 60, "lr": 0.05, "method": "distil", "loss": "mse"})
    assert report.after < 0.1 * report.before


def test_a_loss_may_be_a_callable() -> None:
    def margin(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.multi_margin_loss(output, targets)

    it = case({"steps": 20, "method": "finetune"})
    it = replace(it, options=replace(it.options, loss=margin))
    assert recovered_(it).after < it.measure() + 1e-6
    assert it.options.described()["loss"] == "margin"


def test_soft_is_what_the_labels_leave() -> None:
    assert RecoveryOptions.of({"steps": 1, "soft": 1.0}).soft == 1.0
    labels = case({"steps": 8, "method": "distil", "soft": 0.0})
    plain = case({"steps": 8, "method": "finetune"})
    recovered_(labels)
    recovered_(plain)
    ours, theirs = labels.model.state_dict(), plain.model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_outcome_errors_of_training_are_not_swallowed_silently() -> None:
    def broken(given: RecoveryTask, options: TrainingOptions, watch: Any) -> None:
        raise OutcomeError("the loss is nan at step 1; it must stay finite.")

    it = case({"steps": 5})
    attempt = watched_training(
        it,
        AttemptSettings(RecoveryMethod("broken", True, broken, lambda case: ""), 5),
        BestState(it),
        StepBudget(5),
        "test",
    )
    assert attempt.reason == "test; the loss is nan at step 1"


@pytest.mark.parametrize(("loss", "shift"), [("sparse_cross_entropy", 1), ("next_token", 0)])
def test_a_language_model_is_distilled_position_by_position(loss: str, shift: int) -> None:
    tokens = (
        torch.arange(9)[None] * torch.tensor([1, 2])[torch.arange(64) % 2][:, None] + torch.arange(64)[:, None]
    ) % 7
    data = Split(tokens[:, :8], tokens[:, shift : 8 + shift])
    torch.manual_seed(0)
    teacher, small = (nn.Sequential(nn.Embedding(7, width), nn.Linear(width, 7)) for width in (32, 4))
    recovered = {"steps": 80, "lr": 0.05, "method": "finetune", "loss": loss}
    recover_(copy.deepcopy(teacher), teacher, data, recovered)
    report = recover_(teacher, small, data, {**recovered, "method": "distil", "temperature": 1.0})
    assert report.after < 0.6 * report.before
    agree = (small(tokens).argmax(-1) == teacher(tokens).argmax(-1)).float().mean()
    assert agree > 0.8
