"""Laws of recovery: never worse held out, masks stay zero, itself as a teacher teaches nothing, seeds decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories_recovery import CLASSES, FEATURES, case, dense, task
from prunus.recovery import RECOVERY_METHODS, recovered_
from prunus.recovery.distillation_loss import divergence
from prunus.recovery.objectives import Distillation

SEEDS = st.integers(0, 2**16)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


recoveries = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 12),
        "method": st.sampled_from(["autopilot", *RECOVERY_METHODS.names()]),
        "optimizer": st.sampled_from(["sgd", "adam", "adamw", "adadelta"]),
        "lr": st.sampled_from([1e-4, 1e-2, 1.0, 100.0]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    }
)


@settings(max_examples=15, deadline=None)
@given(recoveries, SEEDS)
def test_never_worse_and_masks_stay_zero(recover: dict[str, Any], seed: int) -> None:
    it = case(recover, masked=True, seed=seed)
    before = it.measure()
    report = recovered_(it)
    assert report.before == before
    assert it.measure() == report.after <= before
    assert report.steps <= recover["steps"]
    for name, mask in it.masks.items():
        assert not it.model.get_parameter(name)[~mask].any()


@settings(max_examples=4, deadline=None)
@given(st.sampled_from(["autopilot", "distil", "blocks"]), SEEDS)
def test_the_same_seed_gives_the_same_weights(method: str, seed: int) -> None:
    ends = []
    for draws in (1, 2):
        torch.manual_seed(draws)  # The caller's random state must not matter.
        it = case({"steps": 8, "method": method}, seed=seed)
        report = recovered_(it)
        ends.append((it.model.state_dict(), [str(attempt).split("(")[0] for attempt in report.attempts]))
    (ours, told), (theirs, told_again) = ends
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert told == told_again


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 20), SEEDS)
def test_a_teacher_of_itself_has_no_gradient(temperature: float, seed: int) -> None:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    value = divergence(logits, logits.detach().clone(), temperature)
    (gradient,) = torch.autograd.grad(value, logits)
    assert abs(value.item()) < 1e-5
    assert float(gradient.abs().max()) < 1e-6


@settings(max_examples=10, deadline=None)
@given(st.floats(0.5, 8), SEEDS)
def test_the_divergence_is_hintons(temperature: float, seed: int) -> None:
    small, big = torch.randn(2, 5, CLASSES, generator=torch.Generator().manual_seed(seed)).double()
    p, q = (big / temperature).softmax(-1), (small / temperature).softmax(-1)
    expected = temperature**2 * (p * (p / q).log()).sum(-1).mean()
    assert float(divergence(small, big, temperature)) == pytest.approx(float(expected), rel=1e-9)


def test_distilling_a_network_from_itself_moves_nothing() -> None:
    it = case({"steps": 1, "method": "distil", "soft": 1.0}, model=dense(), plan=None, masks={})
    objective = Distillation(it)
    inputs, targets = next(task()[0].batches(16))
    assert inputs.shape[1] == FEATURES
    loss = objective(dense(), inputs, targets)
    gradients = torch.autograd.grad(loss, list(dense().parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6
