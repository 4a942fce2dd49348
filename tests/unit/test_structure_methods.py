"""Key path and modular pruning: the path, the gates, the budget, what the plans say and that they can be cut."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from factories_analysis import analysis_of, planned_by
from prunus.analysis import Analysis
from prunus.cost.price import cost_model
from prunus.errors import BudgetError, DataError
from prunus.experiments.workloads import Split
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.graph.ir import INPUT, Graph, Node, Ref, TensorMeta, refs_in
from prunus.methods.join_importance import Gates
from prunus.methods.modular import exchanged, greedy
from prunus.methods.reduction import SLACK, Reduction, droppable, trimmed, whole
from prunus.plans import Plan
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import verify
from prunus.tree.paths import key_path

STRUCTURE = ("key-path", "modular")


@functools.cache
def digits() -> Analysis:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DigitsNet().eval()
    data = Split(torch.randn(24, 1, 8, 8), torch.randint(10, (24,)))
    return analysis_of(model, torch.zeros(2, 1, 8, 8), data, data)


class Blocks(nn.Module):
    """Residual blocks whose branches are scaled by known factors: which matters is known."""

    def __init__(self, *factors: float, width: int = 8) -> None:
        super().__init__()
        self.factors = factors
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in factors)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for factor, block in zip(self.factors, self.blocks, strict=True):
            x = x + block(x) * factor
        return self.head(x)


def subject(model: nn.Module, *, samples: int = 12, shape: tuple[int, ...] = (4,)) -> Analysis:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, *shape, generator=generator)
    data = Split(inputs, torch.randint(3, (samples,), generator=generator))
    return analysis_of(model.eval(), inputs[:3], data, data)


def blocks(*factors: float, width: int = 8) -> Analysis:
    torch.manual_seed(0)
    return subject(Blocks(*factors, width=width))


@st.composite
def programs(draw: st.DrawFn) -> tuple[Graph, dict[tuple[str, int], float]]:
    meta = (TensorMeta((1,), torch.float32),)
    nodes = [Node(f"i{n}", INPUT, {}, meta) for n in range(draw(st.integers(1, 2)))]
    gates = {}
    for n in range(draw(st.integers(1, 8))):
        sources = draw(st.lists(st.sampled_from(nodes), min_size=0, max_size=3))
        name = f"n{n}"
        nodes.append(Node(name, "aten.cat.default", {"tensors": [Ref(s.name) for s in sources]}, meta))
        for i in range(len(sources)):
            if draw(st.booleans()):
                gates[(name, i)] = float(draw(st.integers(0, 5)))
    ends = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=2))
    inputs = tuple(n.name for n in nodes if n.op == INPUT)
    outputs = tuple(Ref(e.name) for e in ends)
    return Graph(tuple(nodes), inputs, None, outputs, None, {}, {}, {}, (), {}), gates


def ways_to(graph: Graph, name: str) -> Iterator[tuple[tuple[str, int], ...]]:
    node = graph.node(name)
    if node.op == INPUT:
        yield ()
    for i, ref in enumerate(refs_in(node.args)):
        for way in ways_to(graph, ref.node):
            yield (*way, (name, i))


@settings(max_examples=150, deadline=None)
@given(programs())
def test_the_key_path_is_the_best_of_all_paths(program: tuple[Graph, dict[tuple[str, int], float]]) -> None:
    graph, gates = program
    every = list(itertools.chain.from_iterable(ways_to(graph, ref.node) for ref in refs_in(list(graph.outputs))))
    found = key_path(graph, gates)
    if not every:
        assert found == ()
        return
    assert found in every
    worth = [sum(gates.get(edge, 0.0) for edge in way) for way in every]
    assert sum(gates.get(edge, 0.0) for edge in found) == max(worth)


def test_the_key_path_avoids_what_is_forbidden() -> None:
    it = blocks(1.0)
    (join,) = {node for node, _ in Gates(it).joins}
    assert (join, 1) in key_path(it.coupling.graph, {(join, 0): 1.0, (join, 1): 2.0})
    assert (join, 0) in key_path(it.coupling.graph, {(join, 0): 1.0, (join, 1): -float("inf")})


def test_gate_importance_is_the_mean_squared_slope_of_each_sample() -> None:
    it = blocks(0.5)
    model, (inputs, targets) = it.model, next(it.calibration.batches())
    expected = {0: 0.0, 1: 0.0}
    for x, y in zip(inputs, targets, strict=True):
        gate = torch.ones(2, requires_grad=True)
        h = model.stem(x[None])
        out = model.head(h * gate[0] + model.blocks[0](h) * 0.5 * gate[1])
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(out, y[None]), gate)
        for i in expected:
            expected[i] += float(slope[i]) ** 2 / len(targets)
    found = {i: value for (_, i), value in Gates(it).importance(whole(it)).items()}
    assert found == pytest.approx(expected, rel=1e-4)


def test_gates_see_the_reduced_network() -> None:
    it = blocks(1.0, 1.0)
    first, second = droppable(it)
    reduction = whole(it).without(first)
    assert reduction is not None
    importance = Gates(it).importance(reduction)
    assert importance[first.edges[0]] == 0.0
    with torch.no_grad():
        expected = subject(Blocks(0.0, 1.0))
        expected.model.load_state_dict(it.model.state_dict())
    assert importance[second.edges[0]] == pytest.approx(Gates(expected).importance(whole(expected))[second.edges[0]])


def test_gates_leave_the_model_as_it_was() -> None:
    it = blocks(1.0)
    before = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    Gates(it).importance(whole(it))
    assert all(torch.equal(before[name], tensor) for name, tensor in it.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in it.model.parameters())


def test_a_loss_that_is_not_finite_is_named() -> None:
    it = blocks(1.0)
    with torch.no_grad():
        it.model.head.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="gate importance of operand 0 of"):
        Gates(it).importance(whole(it))


def accepted(it: Analysis, plan: Plan, kept: float) -> None:
    assert plan.before == it.cost.price()
    assert plan.after.params <= kept * plan.before.params
    small = cut(it.model, it.coupling, plan, it.example_inputs, mode="graph")
    assert verify(it.model, small, it.coupling, plan, it.example_inputs).ok
    assert cost_model(couple(capture(small, it.example_inputs))).price() == plan.after


@pytest.mark.parametrize("name", STRUCTURE)
@pytest.mark.parametrize("kept", [0.5, 0.3, 0.1])
def test_budgets_are_met_from_just_below_and_plans_can_be_cut(name: str, kept: float) -> None:
    it = digits()
    plan = planned_by(name, it, kept)
    accepted(it, plan, kept)
    assert plan.after.params >= (1 - SLACK) * kept * plan.before.params
    assert plan.drops
    found = {b.id: b for b in droppable(it)}
    told = [found[d.node] for d in plan.decisions if d.level == "structure"]
    assert {b.drop for b in told if b.drop} == set(plan.drops)
    emptied = {axis for axis, mask in plan.axes.items() if not mask.any()}
    assert emptied == {axis for b in told for axis in b.axes}
    assert {d.node for d in plan.decisions if d.level == "unit"} == set(plan.axes) - emptied


@pytest.mark.parametrize("name", STRUCTURE)
def test_less_budget_never_keeps_more(name: str) -> None:
    it = digits()
    sizes = [planned_by(name, it, kept).after.params for kept in (0.8, 0.6, 0.4, 0.2)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", STRUCTURE)
def test_the_branch_that_does_nothing_goes_first(name: str) -> None:
    it = blocks(1.0, 1e-4, 1.0, width=16)
    block = 16 * 17
    total = it.cost.price().params
    plan = planned_by(name, it, (total - block + 1) / total)
    assert [drop.label for drop in plan.drops] == ["blocks.1"]
    assert plan.after.params == total - block
    assert not plan.axes


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_branch_is_not_dropped_for_a_few_parameters(name: str) -> None:
    it = blocks(1.0, 1.0, width=16)
    plan = planned_by(name, it, 0.95)
    assert not plan.drops
    assert {d.level for d in plan.decisions} == {"unit"}
    assert all("filter norm" in d.reason for d in plan.decisions)
    accepted(it, plan, 0.95)


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_chain_is_trimmed(name: str) -> None:
    it = subject(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3)))
    plan = planned_by(name, it, 0.5)
    accepted(it, plan, 0.5)
    assert not plan.drops
    assert [d.level for d in plan.decisions] == ["unit"]


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_budget_out_of_reach_says_so(name: str) -> None:
    with pytest.raises(BudgetError, match="least reachable"):
        planned_by(name, blocks(1.0, 1.0), 0.001)


@pytest.mark.parametrize("name", STRUCTURE)
def test_segments_of_concatenations_go_too(name: str) -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 6)) for _ in "abc")
            self.head = nn.Linear(18, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.cat([branch(x) for branch in self.branches], 1))

    torch.manual_seed(0)
    it = subject(Parallel())
    with torch.no_grad():
        it.model.branches[1][2].weight.mul_(1e-3)
        it.model.branches[1][2].bias.zero_()
    plan = planned_by(name, it, 0.67)
    assert [d.node for d in plan.decisions if d.level == "structure"] == ["branches.1"]
    assert not plan.axes["branches.1.2:out"].any()
    accepted(it, plan, 0.67)


def test_batches_of_another_size_are_captured_anew() -> None:
    class Viewed(Blocks):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.stem(x).view(x.shape[0], 2, -1).reshape(x.shape[0], -1)
            return self.head(h + self.blocks[0](h))

    it = subject(Viewed(1.0), samples=7)
    assert set(Gates(it).importance(whole(it))) == set(Gates(it).joins)


def test_held_axes_hold_their_branches() -> None:
    it = blocks(1.0, 1.0)
    assert len(droppable(it)) == 2
    held = analysis_of(it.model, it.example_inputs, it.calibration, it.selection, held=frozenset(it.coupling.axes))
    assert droppable(held) == ()
    with pytest.raises(BudgetError):
        trimmed(whole(held), held.limit(0.5), {}, method="modular")


def test_exchange_never_loses_worth_and_keeps_the_budget() -> None:
    it, rng = digits(), np.random.default_rng(3)
    branches = droppable(it)
    for kept in (0.6, 0.35):
        worth = {b.id: float(rng.random()) for b in branches}
        limit = it.limit(kept).value
        first = greedy(whole(it), branches, worth, limit)
        second = exchanged(first, branches, worth, limit)
        assert second.spent <= max(limit, first.spent)
        assert second.spent >= min((1 - SLACK) * limit, first.spent)
        assert lost(second, worth) <= lost(first, worth)


def lost(reduction: Reduction, worth: dict[str, float]) -> float:
    return sum(worth[b.id] for b in reduction.dropped)
