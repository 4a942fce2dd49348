"""What every enrolled unit criterion promises: scores for all, the same again, in any order of the data."""

from __future__ import annotations

import functools

import pytest
import torch

from factories_digits import digits, fresh_subject
from factories_states import snapshot
from prunus.analysis import Analysis
from prunus.budget import fit_units
from prunus.criteria import UNIT_CRITERIA, Calibration, collect_evidence, damage_curves, probes_for
from prunus.errors import OptionError
from prunus.methods.neurons import unit_scores

TRAINING = ("movement",)  # these need the steps of a training, not a pass over data
MIXES_SAMPLES = ("taylor_batch",)  # says so: which samples share a batch matters
measured = pytest.mark.parametrize("name", [name for name in UNIT_CRITERIA.names() if name not in TRAINING])


@functools.cache
def shared() -> Analysis:
    return fresh_subject()


def scores_of(name: str, order: torch.Tensor, size: int, seed: int = 0) -> dict[str, torch.Tensor]:
    subject = shared()
    inputs, targets = next(iter(digits().calibration.batches(64)))
    batches = list(zip(inputs[order].split(size), targets[order].split(size), strict=True))
    calibration = Calibration(subject.model, subject.coupling, batches, subject.loss, seed)
    return UNIT_CRITERIA.get(name)(collect_evidence(name, calibration))


@measured
def test_every_unit_has_a_finite_score_and_the_model_stays(name: str) -> None:
    subject = shared()
    before = snapshot(subject.model)
    scores = unit_scores(subject, name)
    assert {a: s.shape for a, s in scores.items()} == {a: (x.size,) for a, x in subject.coupling.axes.items()}
    assert all((s >= 0).all() for s in scores.values())
    assert any(s.std() > 0 for s in scores.values())
    assert snapshot(subject.model) == before


@measured
def test_order_of_samples_and_seed_of_the_process_change_nothing(name: str) -> None:
    torch.manual_seed(1)
    first = scores_of(name, torch.arange(64), 32)
    torch.manual_seed(2)
    again = scores_of(name, torch.arange(64), 32)
    other = scores_of(name, torch.randperm(64, generator=torch.Generator().manual_seed(5)), 32)
    for axis, score in first.items():
        assert torch.equal(score, again[axis])
        if name not in MIXES_SAMPLES:
            torch.testing.assert_close(other[axis], score, rtol=1e-3, atol=1e-6 * float(score.max()))


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
