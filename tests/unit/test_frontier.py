"""The frontier of accuracy over training time: its points, its knee, its folder and its doors; the clock is set."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

import prunus
from factories_clock import StepClock
from factories_results import make_results
from factories_training import blocks, samples
from prunus.cli.main import main
from prunus.data.splits import Splits
from prunus.errors import DataError, OptionError, PrunusError
from prunus.outcome import Outcome
from prunus.pipeline import training_frontier
from prunus.report.frontier_picture import frontier_picture
from prunus.report.html import render_report
from prunus.report.results import Frontier, Results, TrainingPoint
from prunus.report.results.frontier import front_of, knee_of

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def point(minutes: float, accuracy: float, low: float = 0.1) -> TrainingPoint:
    return TrainingPoint(minutes, int(60 * minutes), minutes, accuracy, 0.2, (low, 0.3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    return StepClock(monkeypatch)


@pytest.fixture(scope="module")
def start() -> Outcome:
    return prunus.prune(blocks(), X, budget={"params": 0.6}, data=list(samples(512).batches(32)), repair=None)


@pytest.mark.parametrize(
    ("points", "chord", "noise"),
    [
        # Farthest above the line from (1, 60 %) to (8, 90 %): at 2 minutes 80 %.
        ([(1, 0.6), (2, 0.8), (4, 0.86), (8, 0.9)], 1, 3),
        # Accelerating gains lie below the line: the last point of the frontier.
        ([(1, 0.6), (2, 0.62), (4, 0.7), (8, 0.9)], 3, 3),
        # A longer training that is worse is no part of the frontier.
        ([(1, 0.6), (2, 0.8), (4, 0.7), (8, 0.5)], 1, 1),
        ([(1, 0.6), (2, 0.8)], 1, 1),
        ([(1, 0.8), (2, 0.6)], 0, 0),
    ],
)
def test_the_knee_is_where_the_rule_says(points, chord, noise):
    made = [point(*each) for each in points]
    assert (knee_of(made, "chord"), knee_of(made, "noise")) == (chord, noise)


def test_gains_within_noise_are_no_part_of_the_frontier():
    # From 4 minutes on the best is not better beyond noise; the line then ends there, and 2 minutes lie below it.
    made = [point(1, 0.6), point(2, 0.62), point(4, 0.89, low=-0.01), point(40, 0.9, low=0.0)]
    assert (knee_of(made, "noise"), knee_of(made, "chord")) == (2, 2)
    assert front_of(made) == [0, 1, 2, 3]


def test_a_record_whose_knee_does_not_follow_is_refused():
    points = (point(1, 0.6), point(2, 0.8), point(8, 0.9, low=0.0))
    Frontier("minutes", points, 2, 1, "chord", 100)
    with pytest.raises(DataError, match="knee 2 do not follow from the points by rule 'chord'"):
        Frontier("minutes", points, 2, 2, "chord", 100)
    with pytest.raises(DataError, match="allowed: one or more, growing"):
        Frontier("minutes", points[::-1], 0, 1, "chord", 100)


def test_every_training_starts_from_the_same_network_and_has_its_own_budget(clock, start, tmp_path):
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}
    found = prunus.frontier(start, steps=[120, 0, 30], recover={"method": "finetune"}, out=tmp_path)
    assert [(p.amount, p.steps, p.minutes) for p in found.frontier.points] == [(0, 0, 0), (30, 30, 0.5), (120, 120, 2)]
    assert all(torch.equal(before[name], tensor) for name, tensor in start.model.state_dict().items())
    assert found.frontier.points[2].accuracy > found.frontier.points[0].accuracy
    alone = prunus.recover(start, recover={"steps": 120, "method": "finetune"})
    kept = prunus.load(tmp_path / "networks" / "steps-120", blocks())
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), kept.parameters(), strict=True))


def test_the_outcome_is_that_of_the_knee(clock, start):
    found = prunus.frontier(start, steps=[4, 100, 110], recover={"method": "finetune"}, rule="noise")
    amount = int(found.frontier.chosen.amount)
    alone = prunus.recover(start, recover={"steps": amount, "method": "finetune"})
    assert all(
        torch.equal(a, b) for a, b in zip(alone.model.parameters(), found.outcome.model.parameters(), strict=True)
    )


def test_budgets_in_minutes_are_spent(clock, start):
    found = prunus.frontier(start, minutes=[0.5, 2], recover={"method": "finetune"})
    assert [p.minutes for p in found.frontier.points] == pytest.approx([0.5, 2], rel=0.1)


def test_the_test_split_decides_nothing(clock, monkeypatch):
    splits = Splits(samples(256), samples(64), samples(64), samples(64), ("a", "b", "c", "d"))
    upside_down = replace(splits, test=replace(splits.test, targets=3 - splits.test.targets))

    def knee(data: Splits) -> tuple[Any, ...]:
        pruned = prunus.prune(blocks(), X, budget={"params": 0.6}, data=data, repair=None)
        points = prunus.frontier(pruned, steps=[5, 40, 80], recover={"method": "finetune"}).frontier
        return points.knee, [p.accuracy for p in points.points], [p.test_accuracy for p in points.points]

    (one, accuracies, tested), (other, same, different) = knee(splits), knee(upside_down)
    assert (one, accuracies) == (other, same)
    assert tested != different


def test_an_interrupted_frontier_goes_on_and_takes_further_budgets(clock, start, tmp_path, monkeypatch):
    whole = prunus.frontier(start, steps=[10, 40, 80], recover={"method": "finetune"})
    plain, trained, lines = training_frontier.recovered, [], []

    def interrupted(outcome: Outcome, options: Any) -> Outcome:
        if options is not None and options.steps == 80 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        trained.append(options and options.steps)
        return plain(outcome, options)

    stopped: list[bool] = []
    monkeypatch.setattr(training_frontier, "recovered", interrupted)
    given = {"recover": {"method": "finetune"}, "out": tmp_path, "announce": lines.append}
    with pytest.raises(KeyboardInterrupt):
        prunus.frontier(start, steps=[10, 40, 80], **given)
    assert "2 of 3 trainings are kept in" in lines[-1]
    trained.clear()
    found = prunus.frontier(start, steps=[10, 40, 80], **given)
    assert [steps for steps in trained if steps not in (8, 16)] == [80]
    assert "1 trainings, 2 are finished already" in lines[-1]

    def without_folders(frontier: Frontier) -> list[TrainingPoint]:
        return [replace(p, folder="") for p in frontier.points]

    assert without_folders(found.frontier) == without_folders(whole.frontier)
    for one, other in zip(found.outcome.model.parameters(), whole.outcome.model.parameters(), strict=True):
        assert torch.equal(one, other)
    trained.clear()
    more = prunus.frontier(start, steps=[10, 40, 60, 80], **given)
    assert [steps for steps in trained if steps not in (8, 16)] == [60]
    assert (tmp_path / more.frontier.chosen.folder / "checkpoint.json").is_file()


def test_a_damaged_line_and_another_start_are_trained_again(clock, start, tmp_path):
    given = {"recover": {"method": "finetune"}, "out": tmp_path}
    prunus.frontier(start, steps=[4, 8], **given)
    log = tmp_path / "networks" / "points.jsonl"
    log.write_text(log.read_text().replace('"steps": 4', '"steps": 5'))
    before = clock.steps
    prunus.frontier(start, steps=[4, 8], **given)
    assert clock.steps == before + 4
    other = prunus.prune(blocks(1), X, budget={"params": 0.6}, data=list(samples(512).batches(32)), repair=None)
    prunus.frontier(other, steps=[4, 8], **given)
    assert clock.steps == before + 4 + 12


def test_the_time_is_estimated_before(clock, start):
    lines: list[str] = []
    prunus.frontier(start, steps=[20, 100], recover={"method": "finetune"}, announce=lines.append)
    assert lines == ["frontier: 2 trainings of 120 steps in all, about 2 minutes (1 s a step)"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "steps or minutes, such as [50, 100, 200]; got neither"),
        ({"steps": [1, 2], "minutes": [1, 2]}, "got both"),
        ({"steps": [5]}, "steps of a frontier are [5]; allowed: two different budgets or more"),
        ({"steps": [5, 5]}, "hold 5 twice"),
        ({"steps": [5, 7.5]}, "hold 7.5; allowed: whole numbers, 0 or more"),
        ({"steps": "5,7"}, "are '5,7'; allowed: a list"),
        ({"minutes": [1, -1]}, "hold -1; allowed: numbers, 0 or more"),
        ({"steps": [5, 7], "rule": "cord"}, "rule is 'cord'. Did you mean 'chord'?"),
        ({"steps": [5, 7], "recover": {"minutes": 2}}, "recover has minutes (2) beside the budgets"),
        ({"steps": [5, 7], "recover": {"method": "distill"}}, "distill"),
    ],
)
def test_bad_budgets_are_refused_in_one_line(clock, start, given, message):
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        prunus.frontier(start, **given)
    assert "\n" not in str(caught.value)
    assert clock.steps == 0


def test_an_outcome_without_data_or_without_classes_is_refused(start):
    bare = prunus.prune(blocks(), X, budget={"params": 0.6})
    with pytest.raises(OptionError, match="trains on data, and the outcome has none"):
        prunus.frontier(bare, steps=[1, 2])
    numbers = [(x, torch.randn(len(y), 4)) for x, y in samples(256).batches(32)]
    pruned = prunus.prune(blocks(), X, budget={"params": 0.6}, data=numbers, loss="mse", repair=None)
    with pytest.raises(DataError, match="integer"):
        prunus.frontier(pruned, steps=[1, 2])


RECIPE = """
version: 1
model: digits
data: digits
train: {steps: 60}
recover: {method: finetune, batch_size: 16}
prune: {budget: {params: 0.5}, criterion: magnitude, repair: none}
frontier: {steps: [0, 3, 20]}
compare: {latency: {rounds: 1, batch: 4}}
threads: 1
"""


def test_the_command_writes_results_report_picture_and_checkpoints(tmp_path, capsys):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as caught:
        main(["frontier", str(recipe), "--out", str(out)])
    printed = capsys.readouterr()
    assert caught.value.code == 0, printed.err
    assert "knee by rule chord: " in printed.out
    assert "frontier: 3 trainings of 23 steps" in printed.err
    results = Results.load(out / "results.json")
    assert results.frontier is not None
    assert [p.amount for p in results.frontier.points] == [0, 3, 20]
    assert results.runs[0].accuracy == results.frontier.chosen.test_accuracy
    assert results.runs[0].notes[-1].startswith("the knee of the frontier, by rule chord: ")
    for each in results.frontier.points:
        assert (out / each.folder / "checkpoint.json").is_file()
    assert 'id="frontier-knee"' in (out / "report.html").read_text()
    assert 'id="frontier-knee"' in (out / "frontier.svg").read_text()
    with pytest.raises(SystemExit) as caught:
        main(["frontier", str(recipe), "--out", str(out), "--steps", "0,3", "--rule", "noise", "--json"])
    printed = capsys.readouterr()
    assert caught.value.code == 0, printed.err
    assert "0 trainings, 2 are finished already" in printed.err
    assert json.loads(printed.out)["frontier"]["rule"] == "noise"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "1,2", "--minutes", "1,2"], "--steps and --minutes are both given"),
        (["--steps", "1,2.5"], "--steps: got 2.5; allowed: whole numbers"),
        (["--steps", "1"], "steps of a frontier are [1]"),
        (["--recover", "steps=3"], "--recover: got steps; the budgets of a frontier are given by --steps"),
        (["--rule", "cord"], "--rule"),
    ],
)
def test_bad_options_of_the_command_are_one_line(tmp_path, capsys, words, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as caught:
        main(["frontier", str(recipe), "--out", str(tmp_path / "out"), *words])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_budgets_or_with_both_units_is_refused(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    for section, message in (
        ("", "The recipe has no frontier"),
        ("frontier: {steps: [1, 2], minutes: [1, 2]}", "the budgets of a frontier have one unit"),
        ("frontier: {steps: [1, 1]}", "1 is given twice"),
        ("frontier: {steps: [1, -2]}", "whole numbers of steps, each 0 or more"),
    ):
        recipe.write_text(re.sub("frontier: .*", section, RECIPE))
        with pytest.raises(SystemExit):
            main(["frontier", str(recipe), "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err


def test_noise_has_nothing_to_learn_from(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nmodel: digits\ndata: noise\ntrain: {steps: 0}\nfrontier: {steps: [1, 2]}\n")
    with pytest.raises(PrunusError, match="frontier: data: noise has nothing to learn from"):
        prunus.load_recipe(recipe)


def test_the_picture_marks_the_knee_and_every_training():
    points = (point(1, 0.6), replace(point(2, 0.8), test_accuracy=0.7), point(8, 0.9, low=0.0))
    drawn = frontier_picture(Frontier("minutes", points, 2, 1, "chord", 100))
    assert drawn.count('id="frontier-knee"') == 1
    assert {f'id="frontier-training-{i}"' in drawn for i in range(3)} == {True}
    assert "the knee is 2 minutes" in drawn


def test_results_keep_the_frontier_and_the_report_states_its_rule():
    points = (point(1, 0.6), point(2, 0.8), point(8, 0.9, low=0.0))
    results = replace(make_results(), frontier=Frontier("minutes", points, 2, 1, "chord", 100))
    assert Results.from_json(results.to_json()) == results
    page = render_report(results)
    assert "farthest above the straight line" in page
    assert "chart-frontier" not in render_report(make_results())
