"""What every enrolled unit criterion promises: the shipped suite, no score below zero, a damage that divides."""

from __future__ import annotations

import functools

import pytest

from factories_digits import fresh_subject
from factories_suites import suites
from prunus.analysis import Analysis
from prunus.budget import fit_units
from prunus.criteria import UNIT_CRITERIA, damage_curves, probes_for
from prunus.errors import OptionError
from prunus.methods.scored_units import unit_scores
from prunus.testing import criterion_suite

TRAINING = ("movement",)  # these need the steps of a training, not a pass over data
OPTIONS = {"random": {"draws": True}, "taylor-batch": {"mixes_samples": True}}  # which samples share a batch matters
MEASURED = [name for name in UNIT_CRITERIA.names() if name not in TRAINING]
measured = pytest.mark.parametrize("name", MEASURED)

globals().update(suites(MEASURED, criterion_suite, OPTIONS, analysis=fresh_subject))


@functools.cache
def shared() -> Analysis:
    return fresh_subject()


@measured
def test_no_score_is_below_zero(name: str) -> None:
    assert all((s >= 0).all() for s in unit_scores(shared(), name).values())


@measured
def test_its_damage_meets_a_budget_between_axes(name: str) -> None:
    subject = shared()
    scores = unit_scores(subject, name)
    damage = damage_curves(subject.coupling, scores, name)
    limit = subject.limit(0.5)
    keep = fit_units(subject.cost, scores, limit, allocator="lagrangian", damage=damage)
    assert limit.holds(subject.cost.price(keep))
    shares = [mask.mean() for mask in keep.values()]
    assert min(shares) > 0.1  # no axis is taken nearly whole
    assert len(set(shares)) > 1


@pytest.mark.parametrize("name", TRAINING)
def test_what_needs_a_training_says_so(name: str) -> None:
    with pytest.raises(OptionError, match="needs a running training"):
        probes_for(name)
