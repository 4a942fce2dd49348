"""Effort: what each level tries, limits of time and memory, Ctrl-C, and the same at every door."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunus
from factories_pruned import same_state
from factories_repair import cut_half, net, samples
from prunus.errors import OptionError, RecipeError
from prunus.experiments.recipe import Recipe, load_recipe
from prunus.experiments.trained_model import trained_model
from prunus.foundation import clock
from prunus.foundation.effort import EFFORTS, Effort
from prunus.foundation.free_memory import default_memory
from prunus.foundation.progress import Silent
from prunus.foundation.stopping import stoppable
from prunus.repairs import repair_
from prunus.repairs.matching import BEST, MINUTES, Rounds
from prunus.repairs.report import RepairReport

X = samples(2, 9)


@pytest.fixture(scope="module")
def cut_net() -> tuple[nn.Module, Any, Any]:
    model = net()
    return model, *cut_half(model, X)


def repaired(cut_net: tuple[nn.Module, Any, Any], **options: Any) -> tuple[RepairReport, nn.Module]:
    model, coupling, result = cut_net
    small = copy.deepcopy(result.model)
    return repair_(model, small, coupling, result.plan, [samples(96)], **options), small


class Told(Silent):
    """Keeps tasks and lines, and calls a function at a step of matching."""

    def __init__(self, at: int = 0, call: Callable[[], object] = lambda: None) -> None:
        self.tasks: list[str] = []
        self.lines: list[str] = []
        self.steps, self._at, self._call = 0, at, call

    def start(self, task: str, total: int) -> None:
        self.tasks.append(task)

    def advance(self, task: str, n: int = 1) -> None:
        if task == "repair: matching":
            self.steps += n
            if self.steps == self._at:
                self._call()

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_seconds_tries_closed_forms_alone(cut_net: tuple[nn.Module, Any, Any]) -> None:
    assert set(repaired(cut_net, effort="seconds")[0].tried) == {"statistics", "refold"}


def test_minutes_adds_matching_from_the_best_before_it(cut_net: tuple[nn.Module, Any, Any]) -> None:
    report, _ = repaired(cut_net)
    assert list(report.tried) == ["statistics", "refold", "matching"]
    assert report.tried["matching"] < report.tried["refold"], "one round of sixty steps helps here"
    assert report.chosen == "matching"
    assert report.after == min(report.tried.values())


def test_the_report_of_matching_is_that_of_the_written_network(cut_net: tuple[nn.Module, Any, Any]) -> None:
    report, small = repaired(cut_net)
    model, coupling, result = cut_net
    again = repair_(model, small, coupling, result.plan, [samples(96)], repair="bias")
    assert again.before == pytest.approx(report.after, rel=1e-6)


def test_the_same_effort_gives_the_same_network(cut_net: tuple[nn.Module, Any, Any]) -> None:
    assert same_state(repaired(cut_net)[1], repaired(cut_net)[1])


def test_a_round_that_does_not_help_is_the_last_and_is_taken_back(
    cut_net: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunus.repairs.choose_repairs.MINUTES", Rounds(2, 3, gain=0.999))
    told = Told()
    report, _ = repaired(cut_net, progress=told)
    assert sum("matching, round" in line for line in told.lines) == 1
    monkeypatch.setattr("prunus.repairs.matching.RATE", 1e3)
    monkeypatch.setattr("prunus.repairs.blocks.STEP", 1e3)
    spoiled, small = repaired(cut_net, progress=told)
    assert spoiled.chosen == "refold"
    assert spoiled.after == report.tried["refold"] == spoiled.tried["refold"]
    assert same_state(small, repaired(cut_net, repair="refold")[1])


def test_refold_that_does_not_help_brings_simpler_repairs(
    cut_net: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from prunus.repairs.repairs import REPAIRS

    spoiling = replace(REPAIRS.get("statistics"), name="refold")
    monkeypatch.setitem(REPAIRS._members, "refold", spoiling)
    assert {"bias", "scales"} <= set(repaired(cut_net, effort="seconds")[0].tried)


def test_rounds_fit_into_the_work() -> None:
    assert MINUTES.within(10**9) == MINUTES
    assert MINUTES.within(99).steps == 0
    assert MINUTES.within(250) == Rounds(250, 1, MINUTES.gain)
    assert BEST.within(1700) == Rounds(500, 3, BEST.gain)


def test_the_time_limit_keeps_the_best_so_far(
    cut_net: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def passed() -> None:
        now[0] = 100.0

    monkeypatch.setattr(clock, "seconds", lambda: now[0])
    report, _ = repaired(cut_net, time_limit="1min", progress=Told(5, passed))
    assert list(report.tried) == ["statistics", "refold", "matching"]
    assert report.after == min(report.tried.values()) < report.before
    assert any("stopped at the time limit of 60 s; the best so far is kept" in note for note in report.notes)
    assert not report.stopped


def test_no_time_leaves_the_cut_as_it_is(cut_net: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(clock, "seconds", lambda: float(next(ticks)))
    report, small = repaired(cut_net, time_limit=0.5)
    assert report.chosen == "none"
    assert same_state(small, cut_net[2].model)
    assert any("time limit" in note for note in report.notes)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_best_and_the_rest_is_not_trained() -> None:
    model = net()
    before = signal.getsignal(signal.SIGINT)
    told = Told(10, interrupt)
    made = prunus.prune(
        model,
        X,
        budget={"params": 0.6},
        criterion="magnitude",
        data=[(samples(96), torch.zeros(96, dtype=torch.long))],
        recover={"steps": 5},
        progress=told,
    )
    assert signal.getsignal(signal.SIGINT) is before
    assert told.steps == 10
    assert made.repair is not None
    assert made.repair.stopped
    assert made.repair.after < made.repair.before
    assert any("stopped by hand" in note for note in made.repair.notes)
    assert made.recovery is None
    assert any("not trained" in note for note in made.notes)


def test_a_second_ctrl_c_interrupts() -> None:
    with stoppable() as watch:
        interrupt()
        assert watch.over().startswith("stopped by hand")
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_ctrl_c_interrupts_at_once_where_the_best_is_not_to_be_kept() -> None:
    with pytest.raises(KeyboardInterrupt), stoppable(by_hand=False):
        interrupt()


@pytest.mark.parametrize(
    ("given", "seconds"), [(90, 90.0), ("90s", 90.0), ("5min", 300.0), ("2h", 7200.0), ("1.5", 1.5)]
)
def test_times_are_read(given: Any, seconds: float) -> None:
    assert Effort.of(time_limit=given).time_limit == seconds


@pytest.mark.parametrize(("given", "size"), [(10, 10), ("4GB", 4 * 10**9), ("512MiB", 512 << 20), ("1.5kib", 1536)])
def test_sizes_are_read(given: Any, size: int) -> None:
    assert Effort.of(memory_limit=given).memory == size
    assert Effort().memory == default_memory()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effort": "minute"}, "effort is 'minute'. Did you mean 'minutes'? Allowed: seconds, minutes, best."),
        ({"effort": 3}, "effort is 3. Allowed: seconds, minutes, best."),
        ({"time_limit": 0}, "time_limit is 0; allowed: seconds above 0"),
        ({"time_limit": "soon"}, "time_limit is 'soon'; allowed: seconds above 0"),
        ({"time_limit": float("nan")}, "time_limit is nan; allowed: seconds above 0"),
        ({"time_limit": True}, "time_limit is True; allowed: seconds above 0"),
        ({"memory_limit": -1}, "memory_limit is -1; allowed: a whole number of bytes above 0"),
        ({"memory_limit": "4 apples"}, "memory_limit is '4 apples'; allowed: a whole number of bytes above 0"),
        ({"memory_limit": 2.5}, "memory_limit is 2.5; allowed: a whole number of bytes above 0"),
    ],
)
def test_bad_efforts_are_refused_in_a_line(options: dict[str, Any], words: str) -> None:
    for call in (prunus.prune, prunus.plan):
        with pytest.raises(OptionError) as error:
            call(net(), X, budget={"params": 0.5}, **options)
        assert str(error.value).startswith(words)
        assert "\n" not in str(error.value)


def test_a_recipe_has_the_same_three_keys(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    whole = "version: 1\nmodel: digits\ndata: digits\ntrain: {steps: 1, lr: 0.001}\n"
    file.write_text(f"{whole}effort: best\ntime_limit: 5min\nmemory_limit: 2GB\n")
    effort = trained_model(load_recipe(file), 0, Silent()).analysis.effort
    assert effort == Effort("best", 300.0, 2 * 10**9)
    for key, value, words in (
        ("effort", "much", "effort"),
        ("time_limit", "soon", "time_limit: 'soon'; allowed: seconds above 0"),
        ("memory_limit", "-4GB", "memory_limit: '-4GB'; allowed"),
    ):
        file.write_text(f"{whole}{key}: {value}\n")
        with pytest.raises(RecipeError, match=words) as error:
            load_recipe(file)
        assert ":5" in str(error.value), "the line of the key is named"


def test_the_default_is_one_at_all_doors() -> None:
    recipe = Recipe.model_validate({"version": 1, "model": "digits", "data": "digits"})
    assert (recipe.effort, recipe.time_limit, recipe.memory_limit) == ("minutes", None, None)
    assert prunus.analyse(net(), X).effort == Effort() == Effort.of()
    assert Effort().level in EFFORTS


def test_a_comparison_is_interrupted_and_a_single_pruning_keeps_the_best() -> None:
    assert Effort().by_hand
    assert Effort("best", 10.0).after(4.0).time_limit == 6.0
    assert Effort("best", 10.0).after(40.0).time_limit == 0.0
    assert Effort().after(4.0) == Effort()
