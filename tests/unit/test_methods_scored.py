"""Methods that only rank: each keeps what its criterion says, and no criterion is without a method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from factories_analysis import planned_by
from factories_digits import fresh_subject
from prunus.analysis import Analysis
from prunus.criteria import CRITERIA, UNIT_CRITERIA, Evidence
from prunus.criteria.relative import relative_scores
from prunus.experiments.citation import cite
from prunus.foundation.registry import Registry
from prunus.methods import METHODS
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import gradient_evidence, maskable

UNITS = {
    "l1": "l1",
    "fpgm": "fpgm",
    "bn-scale": "bn-scale",
    "mean-activation": "mean-activation",
    "apoz": "apoz",
    "wanda": "units-wanda",
    "snip": "units-snip",
    "redundancy": "units-redundancy",
    "taylor": "taylor",
    "taylor-sample": "taylor-sample",
    "taylor-batch": "taylor-batch",
    "fisher": "fisher",
    "worst-class": "worst-class",
    "magnitude": "magnitude",
    "contribution": "contribution",
    "sensitivity": "sensitivity",
    "random": "random",
    "movement": "movement",
}
WEIGHTS = {
    "magnitude": "absolute-threshold",
    "random": "random-weights",
    "relative-max": "relative-threshold",
    "relative-std": "relative-std-threshold",
    "lamp": "lamp",
    "wanda": "wanda",
    "gradient": "gradient-threshold",
    "importance": "importance",
    "importance-weighted": "importance-weighted",
    "taylor-weight": "snip",
    "snip": "snip",
    "movement": "movement",
}


def test_every_criterion_has_its_method() -> None:
    assert UNITS.keys() == set(UNIT_CRITERIA.names())
    assert WEIGHTS.keys() == set(CRITERIA.names())
    assert {*UNITS.values(), *WEIGHTS.values()} <= set(METHODS.names())


@pytest.mark.parametrize("registry", [METHODS, UNIT_CRITERIA, CRITERIA], ids=lambda registry: registry.role)
def test_names_have_hyphens(registry: Registry[Any]) -> None:
    assert [name for name in registry.names() if "_" in name] == []


def test_a_method_of_units_has_the_name_of_its_criterion() -> None:
    other = {c for c, name in UNITS.items() if name != c}
    assert other == {"wanda", "snip", "redundancy"}  # these names are methods of weights and of blocks
    assert not {c for c in other if METHODS.get(c).level == "neuron"}


@pytest.mark.parametrize("criterion", [c for c, name in UNITS.items() if c not in ("random", "movement")])
def test_units_that_stay_score_higher_and_the_paper_is_that_of_the_criterion(criterion: str) -> None:
    subject, name = fresh_subject(), UNITS[criterion]
    plan, scores = planned_by(name, subject, 0.5), unit_scores(subject, criterion)
    assert plan.axes
    for axis, mask in plan.axes.items():
        assert scores[axis][mask].min() >= scores[axis][~mask].max()
    assert cite({"method": name}).references == cite({"criterion": criterion}).references


def scores_of(subject: Analysis, name: str) -> dict[str, torch.Tensor]:
    weights = maskable(subject)
    if name == "relative-std-threshold":
        return relative_scores(weights, "std")
    found = gradient_evidence(subject).grad or {}
    evidence = Evidence(weights=weights, grad={n: found[n] for n in weights}, seed=subject.seed)
    return CRITERIA.get({"random-weights": "random"}.get(name, name))(evidence)


@pytest.mark.parametrize("name", ["lamp", "snip", "random-weights", "relative-std-threshold"])
def test_weights_that_stay_score_higher_in_the_whole_network(name: str) -> None:
    subject = fresh_subject()
    plan, scores = planned_by(name, subject, 0.4), scores_of(subject, name)
    masks = {
        n: torch.from_numpy(plan.masks[n]) if n in plan.masks else torch.ones_like(s, dtype=torch.bool)
        for n, s in scores.items()
    }
    # Every tensor keeps its best weight, whatever the others have.
    least = min(float(s[masks[n]].min()) for n, s in scores.items() if int(masks[n].sum()) > 1)
    assert least >= max(float(s[~masks[n]].max()) for n, s in scores.items() if not masks[n].all())
    total = subject.cost.price().params
    assert total - sum(int((~m).sum()) for m in masks.values()) == int(0.4 * total)


def test_random_weights_follow_the_seed() -> None:
    one, two = (planned_by("random-weights", fresh_subject(seed=seed), 0.5).masks for seed in (0, 1))
    assert any(not np.array_equal(one[name], two[name]) for name in one)
