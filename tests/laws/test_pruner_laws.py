"""Laws of pruning while training: zeros stay zero under any optimizer, budgets are met, runs repeat exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories_training import OPTIMIZERS, blocks, fit, samples
from prunus.pruner import STRATEGIES, Pruner, PrunerOptions

WEIGHTS = [name for name in STRATEGIES if not STRATEGIES.get(name).structural]
STRUCTURES = [name for name in STRATEGIES if STRATEGIES.get(name).structural]


def pruner_for(model: torch.nn.Module, **options: object) -> Pruner:
    return Pruner(model, {"kept": 0.4, **options}, example_inputs=samples().inputs[:4])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", ["gradual", "rigl", "movement", "units"])
def test_masked_weights_stay_zero_through_any_optimizer(method: str, optimizer: str) -> None:
    model = blocks()
    running = OPTIMIZERS[optimizer](model.parameters())
    fit(model, None, running, 4)  # momentum from before the masks
    pruner = pruner_for(model, method=method, every=3)
    for weights in [fit(model, pruner, running, 12)[-1], dict(model.named_parameters())]:
        gone = {name: ~mask for name, mask in pruner.masks.items() if not mask.all()}
        assert gone
        assert all(bool((weights[name][drop] == 0).all()) for name, drop in gone.items())


@pytest.mark.parametrize("method", STRATEGIES.names())
def test_masks_of_one_moment_hold_until_the_next(method: str) -> None:
    model = blocks()
    pruner = pruner_for(model, method=method, every=4)
    optimizer = OPTIMIZERS["adamw with decay"](model.parameters())
    pruner.train_begin(optimizer, 15)
    data, seen = samples(), []
    for step in range(15):
        pruner.step_begin()
        masks = pruner.masks
        weights = dict(model.named_parameters())
        assert all(bool((weights[n][~m] == 0).all()) for n, m in masks.items()), step
        loss = torch.nn.functional.cross_entropy(model(data.inputs[:32]), data.targets[:32])
        torch.autograd.backward(loss)
        pruner.before_optimizer_step(loss)
        optimizer.step()
        pruner.after_optimizer_step()
        optimizer.zero_grad()
        assert all(torch.equal(m, masks[n]) for n, m in pruner.masks.items())
        seen.append(pruner.kept)
    assert pruner.train_end().reached
    assert seen[0] == 1.0
    assert seen == sorted(seen, reverse=True)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(WEIGHTS), st.floats(0.1, 0.9), st.integers(1, 9), st.integers(3, 24))
def test_weight_methods_keep_exactly_what_was_asked(method: str, kept: float, every: int, steps: int) -> None:
    model = blocks()
    pruner = pruner_for(model, method=method, kept=kept, every=every)
    total = sum(w.numel() for w in pruner._scene.weights.values())
    fit(model, pruner, OPTIMIZERS["adam with decay"](model.parameters()), steps)
    assert pruner._scene.kept_count() == pytest.approx(int(kept * total), abs=1)
    assert pruner.kept <= kept + 1e-12


@pytest.mark.parametrize("metric", ["params", "macs"])
@pytest.mark.parametrize("method", STRUCTURES)
def test_structural_methods_meet_the_budget_and_the_cut_costs_what_the_plan_says(method: str, metric: str) -> None:
    model = blocks()
    pruner = pruner_for(model, method=method, metric=metric, kept=0.5)
    fit(model, pruner, OPTIMIZERS["sgd with momentum"](model.parameters()), 30)
    assert 0.35 < pruner.kept <= 0.5
    plan = pruner.cut_()
    assert sum(p.numel() for p in model.parameters()) == plan.after.params


@pytest.mark.parametrize("method", STRATEGIES.names())
def test_the_same_run_twice_gives_the_same_masks(method: str) -> None:
    def once() -> Pruner:
        model = blocks()
        pruner = pruner_for(model, method=method)
        fit(model, pruner, OPTIMIZERS["sgd with momentum"](model.parameters()), 20)
        return pruner

    first, second = once().masks, once().masks
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_can_come_back_does_come_back() -> None:
    for method in ("rigl", "granet", "movement"):
        model = blocks()
        pruner = pruner_for(model, method=method, every=2, end_step=24)
        optimizer = OPTIMIZERS["sgd with momentum"](model.parameters())
        pruner.train_begin(optimizer, 30)
        data, returned = samples(), 0
        for _ in range(30):
            before = pruner.masks
            pruner.step_begin()
            after = pruner.masks
            returned += sum(int((after[n] & ~before[n]).sum()) for n in after.keys() & before.keys())
            loss = torch.nn.functional.cross_entropy(model(data.inputs), data.targets)
            torch.autograd.backward(loss)
            pruner.before_optimizer_step(loss)
            optimizer.step()
            pruner.after_optimizer_step()
            optimizer.zero_grad()
        assert returned > 0, method


def test_options_are_the_same_as_a_record_and_as_a_mapping() -> None:
    given_options = {"kept": 0.5, "method": "granet", "ignore": ["0.*"]}
    assert Pruner(blocks(), given_options).options == PrunerOptions(0.5, "granet", ignore=("0.*",))
