"""The least time of a comparison, and the methods behind its names."""

from __future__ import annotations

import itertools

import pytest

from prunus.experiments.compared_methods import LEVELS, compared_methods
from prunus.experiments.estimate import estimate
from prunus.experiments.recipe import Recipe
from prunus.experiments.sources import resolve_data, resolve_model
from prunus.foundation import clock
from prunus.methods import METHODS


def recipe(**more: object) -> Recipe:
    return Recipe.model_validate({"version": 1, "model": "digits", "data": "digits", **more})


def test_a_comparison_without_names_has_one_or_two_methods_of_each_level() -> None:
    assert recipe().compare.methods == "levels"
    found = compared_methods("levels")
    assert tuple(found) == LEVELS
    assert {METHODS.get(name).level for name in found} == {"baseline", "weight", "neuron", "structure", "hierarchical"}


def test_a_list_of_methods_stays_as_it_is() -> None:
    assert compared_methods(("key-path", "random")) == ["key-path", "random"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_estimate_multiplies_the_fastest_step(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    # Ticks of one second, but one slow step.
    ticks = itertools.accumulate(itertools.chain([0.0, 1.0, 30.0], itertools.repeat(1.0)))
    monkeypatch.setattr(clock, "seconds", lambda: next(ticks))
    asked = recipe(
        train={"steps": 100, "lr": 1e-3},
        recover={"steps": 40, "lr": 1e-3, "method": "finetune"},
        compare={"methods": ["random", "smaller-dense"], "kept": [0.5, 0.3], "seeds": 2},
        workers=workers,
    )
    found = estimate(
        asked, asked.compare.methods, resolve_model("digits", {}, ".", None, seed=0), resolve_data("digits")
    )
    # Each seed: the dense network and two new ones of 100 steps, and four recoveries of 40.
    assert found.trainings == 2 * (3 + 4)
    assert found.steps == 2 * (3 * 100 + 4 * 40)
    assert found.minutes == pytest.approx(found.steps / 60 / workers)
