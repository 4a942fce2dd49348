"""Budgets in minutes are honoured wherever a network is trained; the clock of these tests is set by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunus
from factories_clock import StepClock
from factories_training import blocks, samples
from prunus.errors import OptionError
from prunus.experiments.comparison import compare
from prunus.experiments.recipe import Recipe, override
from prunus.foundation.clock import TimeLimit
from prunus.pipeline.stage import Stage
from prunus.pruner import Pruner
from prunus.pruner.loop import train_pruning_
from prunus.pruner.training_state import Checkpoints
from prunus.recovery import RecoveryOptions
from prunus.recovery.task import RecoveryTask
from prunus.training import TrainingOptions, finetune_

OPTIONS = TrainingOptions(0, 0.01, 32, loss="cross_entropy")
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def loader() -> list[Any]:
    return list(samples(256).batches(32))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    return StepClock(monkeypatch)


def test_a_training_ends_with_its_time_and_the_rate_follows_the_time(clock, monkeypatch):
    rates = []
    monkeypatch.setattr("prunus.training.loop.SCHEDULES", {"cosine": lambda t: rates.append(t) or 1 - t})
    report = finetune_(blocks(), samples(), OPTIONS, limit=TimeLimit(0.5))
    assert report.steps == 30
    assert rates == pytest.approx([i / 30 for i in range(30)])


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), "1", True])
def test_minutes_are_a_number_above_zero(minutes):
    with pytest.raises(OptionError, match=r"minutes is .*; allowed: a number above 0"):
        TimeLimit(minutes)


@pytest.mark.parametrize("method", ["distil", "finetune", "autopilot"])
def test_a_recovery_spends_its_minutes_and_no_more(clock, method):
    found = prunus.prune(
        blocks(), X, budget={"params": 0.6}, data=loader(), repair=None, recover={"minutes": 2, "method": method}
    )
    assert found.recovery is not None
    assert 100 <= clock.steps <= 121


def test_evaluations_on_held_out_data_do_not_slow_the_pace(clock, monkeypatch):
    plain = RecoveryTask.measure

    def slow(task: RecoveryTask) -> float:
        clock.now += 3.0
        return plain(task)

    monkeypatch.setattr(RecoveryTask, "measure", slow)
    prunus.prune(
        blocks(), X, budget={"params": 0.6}, data=loader(), repair=None, recover={"minutes": 2, "method": "distil"}
    )
    # Beside the first evaluation, four steps with four evaluations to learn the pace; eight evaluations then follow.
    assert 70 <= clock.steps <= 90


def test_the_autopilot_trains_where_the_time_is_shorter_than_a_trial(clock):
    clock.step = 6.0
    prunus.prune(blocks(), X, budget={"params": 0.6}, data=loader(), repair=None, recover={"minutes": 1})
    # Four steps show the pace; a trial would have twenty.
    assert 4 < clock.steps <= 11


def test_a_stage_keeps_the_minutes_of_the_recipe_and_is_not_cut_short_by_its_steps(clock):
    recover = RecoveryOptions(steps=60, lr=1e-3, method="finetune", minutes=5.0)
    assert Stage.model_validate({"level": "units", "recover": {"method": "distil"}}).recover.over(recover).steps > 60


def test_a_schedule_of_a_stage_takes_minutes(clock):
    stages = [{"level": "units", "schedule": "cubic", "minutes": 1.0}]
    found = prunus.prune(blocks(), X, budget={"params": 0.6}, data=loader(), stages=stages)
    assert found.plan.after.params <= 0.6 * found.plan.before.params
    assert 56 <= clock.steps <= 61
    assert "cubic over 1 minutes" in found.plan.settings["stages"][0]


def test_a_stage_takes_steps_or_minutes_for_its_schedule(clock):
    with pytest.raises(OptionError, match="has steps and minutes; its schedule takes one of them"):
        prunus.prune(
            blocks(),
            X,
            budget={"params": 0.6},
            data=loader(),
            stages=[{"level": "units", "schedule": "cubic", "minutes": 1.0, "steps": 3}],
        )
    with pytest.raises(OptionError, match="needs both schedule and steps"):
        prunus.prune(blocks(), X, budget={"params": 0.6}, data=loader(), stages=[{"level": "units", "minutes": 1.0}])


@pytest.mark.parametrize("method", ["gradual", "units", "adaptive", "rigl", "movement", "dynamic-threshold"])
def test_a_pruner_reaches_its_level_within_its_minutes(clock, method):
    net = blocks()
    pruner = Pruner(net, {"kept": 0.5, "method": method}, example_inputs=X)
    report = train_pruning_(net, samples(), OPTIONS, pruner=pruner, minutes=1.0)
    assert report.steps == clock.steps == 60
    assert pruner.kept <= 0.51


def test_masks_change_twenty_times_at_equal_parts_of_the_time(clock):
    net, changes = blocks(), []
    pruner = Pruner(net, {"kept": 0.5}, log=lambda name, value, step: name == "prunus/kept" and changes.append(step))
    train_pruning_(net, samples(), OPTIONS, pruner=pruner, minutes=1.0)
    assert len(changes) == 20
    assert changes[0] == pytest.approx(3, abs=1)
    assert changes[-1] == pytest.approx(41, abs=1)


def test_a_pruner_whose_steps_become_slow_still_reaches_its_level(clock):
    net = blocks()
    pruner = Pruner(net, {"kept": 0.5})

    def slower(done: int) -> None:
        clock.step = 40.0 if done > 3 else 1.0

    train_pruning_(net, samples(), OPTIONS, pruner=pruner, minutes=1.0, log=lambda name, value, step: slower(step))
    assert clock.steps < 8
    assert pruner.kept == pytest.approx(0.5, abs=0.01)


def test_a_loop_of_the_user_ends_by_the_pruner(clock):
    net = blocks()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    pruner = Pruner(net, {"kept": 0.5})
    steps = 0
    with pruner.attached(optimizer, minutes=0.5):
        while not pruner.out_of_time:
            nn.functional.mse_loss(net(X), torch.zeros(4, 4)).backward()
            optimizer.step()
            clock.now += 1.0
            steps += 1
    assert steps == 30
    assert pruner.kept == pytest.approx(0.5, abs=0.01)


def test_a_pruner_takes_steps_or_minutes():
    net = blocks()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    with pytest.raises(OptionError, match="total_steps or minutes; got neither"):
        Pruner(net, {"kept": 0.5}).train_begin(optimizer)
    with pytest.raises(OptionError, match="total_steps or minutes; got total_steps 5 and minutes 1"):
        Pruner(net, {"kept": 0.5}).train_begin(optimizer, 5, minutes=1)
    with pytest.raises(OptionError, match="every is 3, a number of steps"):
        Pruner(net, {"kept": 0.5, "every": 3}).train_begin(optimizer, minutes=1)


def test_a_resumed_training_has_the_minutes_that_are_left(clock, tmp_path):
    place = Checkpoints(tmp_path / "training.safetensors", every=10)

    class Killed(Exception):
        pass

    def kill(name: str, value: float, step: int) -> None:
        if name == "train/loss" and step == 25:
            raise Killed

    def run(log: Any = None) -> tuple[Pruner, int]:
        net = blocks()
        pruner = Pruner(net, {"kept": 0.5})
        report = train_pruning_(net, samples(), OPTIONS, pruner=pruner, checkpoints=place, minutes=1.0, log=log)
        return pruner, report.steps

    with pytest.raises(Killed):
        run(kill)
    clock.now += 1000.0
    pruner, steps = run()
    assert steps == 60
    assert pruner.kept == pytest.approx(0.5, abs=0.01)
    with pytest.raises(OptionError, match=r"minutes is 1\.0 there and 2.0 here"):
        train_pruning_(
            blocks(), samples(), OPTIONS, pruner=Pruner(blocks(), {"kept": 0.5}), checkpoints=place, minutes=2.0
        )


def test_a_comparison_gives_methods_that_prune_while_they_train_the_minutes_of_recover(clock):
    recipe = Recipe(version=1, model="digits", data="digits")
    recipe = override(
        recipe,
        {
            ("train", "steps"): 2,
            ("recover", "minutes"): 0.2,
            ("compare", "methods"): ["incremental", "units-incremental", "magnitude"],
            ("compare", "kept"): [0.5],
            ("compare", "latency", "rounds"): 1,
            ("compare", "latency", "batch"): 4,
        },
    )
    results = compare(recipe)
    assert not results.skipped
    assert len(results.runs) == 3
    notes = [note for row in results.runs for note in row.notes]
    assert notes.count("pruned while training: the 0.2 minutes of recover were spent there, none after") == 2
    assert 2 + 3 * 8 <= clock.steps <= 2 + 3 * 12
