"""Laws of the core on random networks: masked ≡ cut, price = count, budgets hold, nothing given is changed."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import prunus
from factories_cuts import random_share
from factories_pruned import same_state
from factories_random_nets import RandomNet, random_inputs, random_net
from factories_states import snapshot
from prunus.analysis.score import make_plan
from prunus.budget import Limit, fit_units
from prunus.cost.price import cost_model
from prunus.errors import BudgetError
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Cost, Plan
from prunus.surgery.cut import cut, cut_with_record
from prunus.surgery.proving.verify import Check, compare_models
from prunus.surgery.tensors import slice_tensors

EXACT = 1e-8
SEEDS = st.integers(0, 100_000)


def laws(examples: int) -> settings:
    """Seeds do not shrink to anything simpler, so a failing one is reported at once."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
    )


def prunable(seed: int, steps: int = 6) -> tuple[RandomNet, torch.Tensor, Coupling]:
    model = random_net(seed, steps)
    inputs = random_inputs(model)
    coupling = couple(capture(model, inputs))
    assume(coupling.axes)
    return model, inputs, coupling


def count(model: nn.Module, inputs: torch.Tensor) -> Cost:
    return cost_model(couple(capture(model, inputs))).price()


def assert_exact(check: Check) -> None:
    assert check.values_equal
    assert check.error <= EXACT, check


@laws(20)
@given(seed=SEEDS, mode=st.sampled_from(("hybrid", "graph")))
def test_masked_is_cut_and_the_price_is_the_count(seed: int, mode: str) -> None:
    model, inputs, coupling = prunable(seed)
    plan = make_plan(coupling, random_share(coupling, seed, 0.1, 0.9))
    small = cut(model, coupling, plan, inputs, mode=mode)
    check = compare_models(model, small, coupling, plan, inputs, seed=seed)
    assert_exact(check)
    assert check.change > EXACT, "the cut changed nothing, so the check proves nothing"
    assert plan.before == count(model, inputs)
    assert plan.after == count(small, inputs)


@laws(10)
@given(seed=SEEDS, mode=st.sampled_from(("hybrid", "graph")))
def test_a_cut_model_takes_any_batch(seed: int, mode: str) -> None:
    model, inputs, coupling = prunable(seed)
    small = cut(model, coupling, make_plan(coupling, random_share(coupling, seed, 0.3, 0.9)), inputs, mode=mode)
    many = random_inputs(model, 7, seed)
    with torch.no_grad():
        whole = small(many)
        for batch in (1, 3):
            torch.testing.assert_close(small(many[:batch]), whole[:batch], rtol=1e-4, atol=1e-5)


@laws(10)
@given(seed=SEEDS)
def test_weight_masks_are_cut_exactly_too(seed: int) -> None:
    model, inputs, coupling = prunable(seed)
    generator = np.random.default_rng(seed)
    masks = {n: generator.random(tuple(p.shape)) > 0.4 for n, p in model.named_parameters() if p.dim() > 1}
    plan = make_plan(coupling, random_share(coupling, seed, 0.5, 0.9), masks=masks)
    small = cut(model, coupling, plan, inputs)
    assert_exact(compare_models(model, small, coupling, plan, inputs))
    alive = slice_tensors({n: torch.ones(m.shape) for n, m in masks.items()}, coupling, plan)
    assert all(not bool(small.get_parameter(n)[kept == 0].any()) for n, kept in alive.items())


@laws(15)
@given(seed=SEEDS, masked=st.booleans())
def test_load_after_save_is_the_same_plan(seed: int, masked: bool) -> None:
    model, _, coupling = prunable(seed)
    generator = np.random.default_rng(seed)
    masks = {n: generator.random(tuple(p.shape)) > 0.5 for n, p in model.named_parameters()} if masked else {}
    plan = make_plan(coupling, random_share(coupling, seed), masks=masks, settings={"budget": {"params": 0.5}})
    with tempfile.TemporaryDirectory() as folder:
        plan.save(f"{folder}/plan")
        again = Plan.load(f"{folder}/plan")
    assert again == plan
    assert (again.before, again.after, again.decisions) == (plan.before, plan.after, plan.decisions)
    for tensor, dims in plan.keep.items():
        assert all(np.array_equal(again.keep[tensor][dim], kept) for dim, kept in dims.items())


@laws(25)
@given(
    seed=SEEDS,
    metric=st.sampled_from(("params", "macs", "bytes")),
    allocator=st.sampled_from(("uniform", "global")),
    shares=st.lists(st.floats(0.05, 0.99), min_size=2, max_size=5),
)
def test_budgets_hold_and_less_budget_never_keeps_more(
    seed: int, metric: str, allocator: str, shares: list[float]
) -> None:
    _, _, coupling = prunable(seed)
    cost = cost_model(coupling)
    generator = np.random.default_rng(seed)
    scores = {name: generator.random(axis.size) for name, axis in coupling.axes.items()}
    whole, least, spent = cost.price(), cost.price(dict.fromkeys(coupling.axes, 1)), 0
    for share in sorted(shares):
        limit = Limit(metric, int(share * Limit(metric, 0).of(whole)))
        try:
            keep = fit_units(cost, scores, limit, allocator=allocator)
        except BudgetError:
            assert not limit.holds(least)
            continue
        price = cost.price(keep)
        assert limit.holds(price)
        assert limit.of(price) >= spent
        spent = limit.of(price)
        for axis, mask in keep.items():
            assert mask.any()
            assert mask.all() or scores[axis][mask].min() >= scores[axis][~mask].max()


@laws(8)
@given(seed=SEEDS, training=st.booleans())
def test_nothing_that_is_given_changes(seed: int, training: bool) -> None:
    model, inputs, _ = prunable(seed)
    model.train(training)
    model.head.register_forward_hook(lambda module, args, out: None)
    F.cross_entropy(model(inputs), torch.tensor([0, 3])).backward()
    model.stem.weight.requires_grad_(False)
    batches = [(inputs, torch.tensor([0, 3]))]
    before, given_inputs = snapshot(model), inputs.clone()
    capture(model, inputs)
    assert snapshot(model) == before
    prunus.plan(model, inputs, budget={"params": 0.6}, criterion="taylor", data=batches)
    assert snapshot(model) == before
    result = prunus.prune(model, inputs, budget={"params": 0.6}, criterion="sensitivity", data=batches)
    prunus.apply(model, result.plan, inputs)
    prunus.measure(model, inputs)
    assert snapshot(model) == before
    assert torch.equal(inputs, given_inputs)


@laws(8)
@given(seed=SEEDS, levels=st.sampled_from((("unit",), ("unit", "weight"))))
def test_applying_the_plan_of_prune_gives_its_model_bit_for_bit(seed: int, levels: tuple[str, ...]) -> None:
    model, inputs, _ = prunable(seed)
    try:
        result = prunus.prune(model, inputs, budget={"params": 0.6}, levels=levels, seed=seed)
    except BudgetError:
        assume(False)  # a network of which no plan leaves so little
    again = prunus.apply(model, result.plan, inputs).model
    assert same_state(again, result.model)
    with torch.no_grad():
        assert torch.equal(again(inputs), result.model(inputs))


@laws(6)
@given(seed=SEEDS, mode=st.sampled_from(("hybrid", "graph")))
def test_cutting_what_was_cut_stays_exact(seed: int, mode: str) -> None:
    model: nn.Module = random_net(seed)
    inputs = random_inputs(model)
    for step in range(3):
        coupling = couple(capture(model, inputs))
        assume(coupling.axes)
        plan = make_plan(coupling, random_share(coupling, seed + step, 0.5, 0.95))
        small, _ = cut_with_record(model, coupling, plan, inputs, mode=mode)
        assert_exact(compare_models(model, small, coupling, plan, inputs))
        assert plan.after == count(small, inputs)
        model = small
