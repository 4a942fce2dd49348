"""Laws of the budget: optimum = brute force, every limit holds, prices agree, frontiers are monotone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from factories_random_nets import random_inputs, random_net
from prunus.analysis.score import make_plan
from prunus.budget import ALLOCATORS, Bound, Limit, UnitProblem, allocate, parse_budget, unit_problem
from prunus.budget.knapsack_tree import Group, Leaf, Solution, solve_tree
from prunus.budget.weights import WEIGHT_ALLOCATORS, fit_weights
from prunus.cost.price import CostModel, cost_model
from prunus.errors import BudgetError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.surgery.cut import cut
from prunus.tree import grow_tree
from prunus.tree.choices import ChoiceTree
from prunus.tree.layers import total

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


def random_tree(rng: np.random.Generator, depth: int, names: Iterator[int]) -> Leaf | Group:
    name = str(next(names))
    if depth == 0 or rng.random() < 0.3:
        ways = int(rng.integers(1, 4))
        return Leaf(name, rng.integers(0, 12, ways), rng.random(ways))
    parts = tuple(random_tree(rng, depth - 1, names) for _ in range(rng.integers(1, 4)))
    return Group(name, parts, (int(rng.integers(0, 5)), float(2 * rng.random())) if rng.random() < 0.5 else None)


def every_way(node: Leaf | Group) -> list[tuple[int, float]]:
    if isinstance(node, Leaf):
        return [(int(c), float(d)) for c, d in zip(node.cost, node.damage, strict=True)]
    inner = itertools.product(*(every_way(part) for part in node.parts))
    sums = [(sum(c for c, _ in ways), sum(d for _, d in ways)) for ways in inner]
    return sums + ([node.drop] if node.drop else [])


def counted(node: Leaf | Group, solution: Solution) -> tuple[int, float]:
    if isinstance(node, Leaf):
        way = solution.choice[node.id]
        return int(node.cost[way]), float(node.damage[way])
    if node.id in solution.dropped:
        assert node.drop is not None
        return node.drop
    inner = [counted(part, solution) for part in node.parts]
    return sum(c for c, _ in inner), sum(d for _, d in inner)


@laws(120)
@given(seed=SEEDS, budget=st.integers(0, 40))
def test_the_tree_knapsack_is_the_optimum(seed: int, budget: int) -> None:
    root = random_tree(np.random.default_rng(seed), 3, itertools.count())
    ways = every_way(root)
    assume(len(ways) < 20_000)
    fitting = [damage for cost, damage in ways if cost <= budget]
    if not fitting:
        with pytest.raises(BudgetError, match=f"least reachable is {min(cost for cost, _ in ways):,}"):
            solve_tree(root, budget)
        return
    found = solve_tree(root, budget)
    assert found.frontier.exact
    assert abs(found.damage - min(fitting)) < 1e-9
    cost, damage = counted(root, found)
    assert cost == found.cost <= budget
    assert abs(damage - found.damage) < 1e-9
    assert (np.diff(found.frontier.cost) > 0).all()
    assert (np.diff(found.frontier.damage) < 0).all()


@laws(20)
@given(seed=SEEDS)
def test_a_thinned_frontier_still_keeps_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    leaves = [Leaf(str(i), rng.integers(1, 10**6, 12), rng.random(12)) for i in range(30)]
    root = Group("", tuple(leaves))
    least, most = (sum(int(pick(leaf.cost)) for leaf in leaves) for pick in (np.min, np.max))
    budget = least + (most - least) // 3
    long, short = solve_tree(root, budget), solve_tree(root, budget, cap=64)
    assert not short.frontier.exact
    assert counted(root, short)[0] == short.cost <= budget
    assert long.damage - 1e-9 <= short.damage <= long.damage * 1.25


class Stage(nn.Module):
    """Two residual blocks on one stream: the stream's width meets both inner widths."""

    def __init__(self, stream: int, first: int, second: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, stream), nn.Linear(stream, 2)
        self.a = nn.Sequential(nn.Linear(stream, first), nn.ReLU(), nn.Linear(first, stream))
        self.b = nn.Sequential(nn.Linear(stream, second), nn.ReLU(), nn.Linear(second, stream))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.a(x)
        return self.head(x + self.b(x))


def small_net(rng: np.random.Generator) -> nn.Module:
    if rng.random() < 0.4:
        return Stage(*(int(n) for n in rng.integers(2, 7, 3)))
    widths = [3, *(int(n) for n in rng.integers(2, 7, int(rng.integers(1, 5)))), 2]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])


def priced(model: nn.Module, inputs: Tensor) -> CostModel:
    return cost_model(couple(capture(model, inputs)))


def measured_problem(rng: np.random.Generator, cost: CostModel, metric: str) -> UnitProblem:
    """A problem with damage curves that fall to zero, any budget between the least and all, and no guard."""
    axes = cost.coupling.axes
    scores = {a: rng.random(x.size) for a, x in axes.items()}
    damage = {a: np.append(np.sort(rng.random(x.size))[::-1], 0.0) for a, x in axes.items()}
    least, whole = (Limit(metric, 0).of(cost.price(n)) for n in (dict.fromkeys(axes, 1), {}))
    found = unit_problem(cost, scores, Limit(metric, int(rng.integers(least, whole + 1))), damage=damage)
    return dataclasses.replace(found, least_of_even=0.0)


def brute_force(problem: UnitProblem) -> float:
    ways = itertools.product(*(range(1, len(s) + 1) for s in problem.scores.values()))
    choices = (dict(zip(problem.scores, way, strict=True)) for way in ways)
    return min(problem.predicted(counts) for counts in choices if problem.fits(counts))


@laws(18)
@given(seed=SEEDS, metric=st.sampled_from(("params", "macs")))
def test_viterbi_is_the_optimum_of_chains_and_residual_stages(seed: int, metric: str) -> None:
    rng = np.random.default_rng(seed)
    problem = measured_problem(rng, priced(small_net(rng), torch.zeros(2, 3)), metric)
    found = allocate(problem, "viterbi")
    assert problem.fits(found.counts)
    assert abs(found.damage - brute_force(problem)) < 1e-9
    assert allocate(problem, "lagrangian").damage >= found.damage - 1e-9


class Apart(nn.Module):
    """Widths that never meet: every branch has its own."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(3, w), nn.ReLU(), nn.Linear(w, 2)) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([part(x) for part in self.parts]).sum(0)


@laws(15)
@given(seed=SEEDS)
def test_the_knapsack_is_the_optimum_where_no_two_widths_meet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Apart(tuple(int(n) for n in rng.integers(2, 8, 4)))
    problem = measured_problem(rng, priced(model, torch.zeros(2, 3)), "params")
    assert abs(allocate(problem, "knapsack").damage - brute_force(problem)) < 1e-9


@laws(8)
@given(
    seed=SEEDS,
    budget=st.sampled_from(({"params": 0.6}, {"macs": 0.5}, {"bytes": 0.5, "macs": 0.6})),
    round_to=st.sampled_from((1, 2, 3)),
)
def test_every_allocator_holds_every_limit_and_every_bound(seed: int, budget: dict[str, float], round_to: int) -> None:
    model = random_net(seed)
    cost = priced(model, random_inputs(model))
    axes = list(cost.coupling.axes.values())
    assume(axes)
    rng = np.random.default_rng(seed)
    scores = {a.id: rng.random(a.size) for a in axes}
    bounds = {a.id: Bound(round_to=round_to, floor=0.2) for a in axes}
    bounds[axes[0].id] = Bound(frozen=True)
    try:
        problem = unit_problem(cost, scores, parse_budget(budget, cost.price()), bounds=bounds)
    except BudgetError:
        assume(False)
    for name in ALLOCATORS.names():
        found = allocate(problem, name)
        assert all(limit.holds(found.price) for limit in problem.limits), name
        assert found.price == cost.price(found.counts), name
        for axis in axes:
            kept = found.counts[axis.id]
            assert kept == axis.size or (kept % round_to == 0 and kept >= 0.2 * axis.size), (name, axis.id)
        assert found.counts[axes[0].id] == axes[0].size


@laws(15)
@given(seed=SEEDS)
def test_the_polynomial_is_the_price(seed: int) -> None:
    model = random_net(seed)
    cost = priced(model, random_inputs(model))
    rng = np.random.default_rng(seed)
    assume(cost.coupling.axes)
    scores = {a: rng.random(x.size) for a, x in cost.coupling.axes.items()}
    gone, *rest = cost.coupling.axes
    base = {gone: rng.random(cost.coupling.axes[gone].size) < 0.5}
    for free, present in ((scores, {}), ({a: scores[a] for a in rest}, base)):
        problem = unit_problem(cost, free, Limit("params", 10**9), base=present)
        for _ in range(4):
            counts = {a: int(rng.integers(0, len(s) + 1)) for a, s in problem.scores.items()}
            assert problem.price(counts) == cost.price({**problem.fixed, **counts})


@laws(6)
@given(seed=SEEDS, allocator=st.sampled_from(("isomorphic", "erk", "lamp", "lagrangian", "knapsack", "viterbi")))
def test_the_price_of_a_plan_is_the_count_of_the_cut_model(seed: int, allocator: str) -> None:
    model = random_net(seed)
    inputs = random_inputs(model)
    cost = priced(model, inputs)
    assume(cost.coupling.axes)
    rng = np.random.default_rng(seed)
    scores = {a: rng.random(x.size) for a, x in cost.coupling.axes.items()}
    try:
        problem = unit_problem(cost, scores, Limit("params", int(0.7 * cost.price().params)))
    except BudgetError:
        assume(False)
    found = allocate(problem, allocator)
    plan = make_plan(cost.coupling, problem.masks(found.counts), cost=cost)
    assert priced(cut(model, cost.coupling, plan, inputs), inputs).price() == plan.after == found.price


@laws(8)
@given(seed=SEEDS, allocator=st.sampled_from(("uniform", "lagrangian", "knapsack", "viterbi")))
def test_frontiers_fall(seed: int, allocator: str) -> None:
    rng = np.random.default_rng(seed)
    problem = measured_problem(rng, priced(small_net(rng), torch.zeros(2, 3)), "params")
    found = allocate(problem, allocator, points=6)
    assert all(a.amount < b.amount and a.damage > b.damage for a, b in itertools.pairwise(found.frontier))
    assert min(point.damage for point in found.frontier) <= found.damage


@laws(15)
@given(seed=SEEDS, stages=st.sampled_from(("feature", "depth", "connections")))
def test_the_prices_of_children_add_up(seed: int, stages: str) -> None:
    model = random_net(seed)
    cost = priced(model, random_inputs(model))
    tree = grow_tree(cost.coupling, stages)
    assert tree.root.price == cost.price()
    for node in tree.below():
        if node.children:
            assert total(child.price for child in tree.children(node.id)) == node.price
    assert set(tree.axes()) == set(cost.coupling.axes)


@laws(10)
@given(seed=SEEDS, share=st.floats(0.3, 0.9))
def test_the_model_of_the_tree_never_promises_less_than_the_price(seed: int, share: float) -> None:
    model = random_net(seed)
    cost = priced(model, random_inputs(model))
    rng = np.random.default_rng(seed)
    damage = {a: np.append(np.sort(rng.random(x.size))[::-1], 0.0) for a, x in cost.coupling.axes.items()}
    choices = ChoiceTree.of(grow_tree(cost.coupling), cost, damage, {})
    budget = int(share * cost.price().params)
    try:
        found = choices.read(solve_tree(choices.root, budget))
    except BudgetError:
        assume(False)
    assert cost.price(found.counts).params <= found.amount <= budget


@laws(40)
@given(seed=SEEDS, allocator=st.sampled_from(WEIGHT_ALLOCATORS.names()), share=st.floats(0, 1))
def test_weights_are_kept_to_the_last_one(seed: int, allocator: str, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores = {str(i): rng.random(tuple(rng.integers(1, 6, rng.integers(1, 4)))).round(1) for i in range(4)}
    count = int(share * sum(s.size for s in scores.values()))
    masks = fit_weights(scores, count, allocator)
    assert sum(int(m.sum()) for m in masks.values()) == count
    for name, mask in masks.items():
        if mask.any() and not mask.all():
            assert scores[name][mask].min() >= scores[name][~mask].max()
