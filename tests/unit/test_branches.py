"""Branches: found, priced and dropped; what stays computes what the masked original computes."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from factories_analysis import analysis_of
from prunus.analysis import Analysis
from prunus.cost.price import cost_model
from prunus.errors import PlanError
from prunus.experiments.workloads import Split
from prunus.experiments.workloads.digits_net import DigitsNet
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import compare_models
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.tree import Branch, find_branches, structure_rows


def unit(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Inception(nn.Module):
    """Two blocks of parallel branches, the second nested: its first segment is itself a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(1, 6)
        self.a = nn.ModuleDict({"point": nn.Conv2d(6, 4, 1), "deep": nn.Sequential(unit(6, 5), unit(5, 3))})
        self.b = nn.ModuleDict({"left": unit(7, 4), "right": unit(7, 2), "far": unit(7, 5)})
        self.head = nn.Linear(11, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in self.a.values()], 1)
        near = torch.cat([self.b["left"](x), self.b["right"](x)], 1)
        return self.head(torch.cat([near, self.b["far"](x)], 1).mean((2, 3)))


class Dense(nn.Module):
    """Every layer reads all earlier ones, so a segment ends in several concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(1, 4)
        self.layers = nn.ModuleList(unit(4 + 3 * i, 3) for i in range(3))
        self.head = nn.Linear(13, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1) if len(features) > 1 else features[0]))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class InPlace(nn.Module):
    """In-place additions and activations as in torchvision, and one sum whose input is read again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(1, 4)
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out = self.first(x)
        out += x
        x = out.relu_()
        y = (x + self.second(x)).sub_(1.0)
        z = self.third(y) * 2 + x
        return self.head((z * x).mean((2, 3)))


class Projected(nn.Module):
    """An in-place addition of a projection shortcut, as in a ResNet, and a mask that is written into piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.shortcut, self.inner = (nn.Conv2d(1, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.main(x)
        out += self.shortcut(x)
        inner = self.inner(x)
        mask = inner.new_zeros(1, 1, 6, 6)
        mask[:, :, 1:3] = 1.0
        out = out + inner * mask
        return self.head(torch.relu(out).mean((2, 3)))


class Nested(nn.Module):
    """A residual branch inside a residual branch, and a sum that is broadcast, scaled or of no input: no branches."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner, self.last, self.gate = (nn.Linear(6, 6) for _ in range(4))
        self.bias = nn.Parameter(torch.randn(4, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.add(x + self.bias, self.gate(x), alpha=2) + self.gate(x).mean(1, keepdim=True)
        h = torch.relu(self.outer(x))
        return self.head(x + self.last(h + self.inner(h)))


NETS = {
    "digits": (DigitsNet, (1, 8, 8)),
    "inception": (Inception, (1, 6, 6)),
    "dense": (Dense, (1, 6, 6)),
    "in place": (InPlace, (1, 6, 6)),
    "projected": (Projected, (1, 6, 6)),
    "nested": (Nested, (6,)),
}


@functools.cache
def subject(name: str) -> Analysis:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, shape = NETS[name]
    model = build().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.bias.fill_(0.5)
                module.running_var.uniform_(0.5, 2.0)
    data = Split(torch.randn(8, *shape), torch.randint(3, (8,)))
    return analysis_of(model, torch.randn(4, *shape), data, data)


def coupling_of(model: nn.Module, *shape: int) -> Coupling:
    return couple(capture(model.eval(), torch.randn(shape)))


def check_cut(it: Analysis, reduction: Reduction) -> nn.Module:
    plan = reduction.as_plan()
    small = cut(it.model, it.coupling, plan, it.example_inputs, mode="graph")
    check = compare_models(it.model, small, it.coupling, plan, it.example_inputs)
    assert check.ok, (plan.drops, check)
    assert check.change > 0
    assert sum(p.numel() for p in small.parameters()) == plan.after.params
    return small


def test_digits_branches_are_named_after_their_modules() -> None:
    found = {b.id: b for b in find_branches(subject("digits").coupling)}
    assert {"stage1.1.branch", "stage2.0.branch", "stage2.0.shortcut"} <= set(found)
    main, shortcut = found["stage2.0.branch"], found["stage2.0.shortcut"]
    assert main.group == shortcut.group == (main.join,)
    assert (shortcut.operand, main.operand) == (0, 1)
    assert all(name.startswith("stage2.0.branch.") for name in main.tensors)


@pytest.mark.parametrize("name", NETS)
def test_dropping_each_branch_alone_is_exact_and_saves_what_it_says(name: str) -> None:
    it = subject(name)
    before = it.cost.price()
    branches = find_branches(it.coupling)
    assert branches
    for number, branch in enumerate(branches):
        reduction = whole(it).without(branch)
        assert reduction is not None, branch.id
        after = reduction.as_plan().after
        assert before.params - after.params == branch.params, branch.id
        assert before.macs_forward - after.macs_forward == branch.macs_forward, branch.id
        left = {node.tensor for node in reduction.graph.nodes}
        assert left.isdisjoint(branch.tensors)
        # A cut of the large network takes its time; its random sets below take in the others.
        if name != "digits" or number % 2 == 0:
            check_cut(it, reduction)


@pytest.mark.parametrize("name", NETS)
def test_dropping_random_sets_is_exact(name: str) -> None:
    it, rng = subject(name), np.random.default_rng(0)
    branches = find_branches(it.coupling)
    for _ in range(3):
        reduction = whole(it)
        for index in rng.permutation(len(branches))[: rng.integers(2, len(branches) + 1)]:
            branch = branches[index]
            if branch in reduction.left(branches):
                reduction = reduction.without(branch) or reduction
        assert reduction.dropped
        small = check_cut(it, reduction)
        assert cost_model(couple(capture(small, it.example_inputs))).price() == reduction.as_plan().after


def test_both_operands_of_a_join_are_refused() -> None:
    it = subject("digits")
    found = {b.id: b for b in find_branches(it.coupling)}
    pair = [found["stage2.0.branch"], found["stage2.0.shortcut"]]
    assert Reduction.of(it, pair) is None
    with pytest.raises(PlanError, match="keep one"):
        rewrite(it.coupling, {}, [b.drop for b in pair if b.drop])
    first = whole(it).without(pair[0])
    assert first is not None
    assert pair[1] not in first.left(pair)


def test_all_segments_of_a_concatenation_are_refused() -> None:
    it = subject("inception")
    segments = [b for b in find_branches(it.coupling) if b.id.startswith("a.")]
    assert {b.id for b in segments} == {"a.point", "a.deep"}
    assert Reduction.of(it, segments) is None


def test_a_segment_of_segments_holds_them() -> None:
    found = {b.id: b for b in find_branches(subject("inception").coupling)}
    assert set(found) == {"a.point", "a.deep", "b.left", "b.right", "b", "b.far"}
    assert found["b"].holds(found["b.left"])
    assert not found["b.left"].holds(found["b"])
    assert not found["b.far"].holds(found["b.left"])
    assert found["b"].params == found["b.left"].params + found["b.right"].params


def test_a_segment_may_end_in_several_concatenations() -> None:
    found = {b.id: b for b in find_branches(subject("dense").coupling)}
    assert len(found["layers.0"].group) == 3
    assert found["layers.0"].axes == ("layers.0.0:out",)


def test_a_sum_that_is_overwritten_while_its_operand_is_read_is_no_branch() -> None:
    found = {tuple(b.tensors): b for b in find_branches(subject("in place").coupling)}
    assert set(found) == {
        ("first.weight", "first.bias"),
        ("second.weight", "second.bias", "third.weight", "third.bias"),
    }


def test_branches_nest_and_odd_sums_are_none() -> None:
    found = find_branches(subject("nested").coupling)
    outer, inner = max(found, key=lambda b: b.params), min(found, key=lambda b: b.params)
    assert len(found) == 2
    assert set(inner.tensors) == {"inner.weight", "inner.bias"}
    assert set(inner.tensors) < set(outer.tensors)
    assert outer.holds(inner)


def test_a_shared_tensor_belongs_to_no_single_branch() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.head = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.twice(x)
            return self.head(x + self.twice(x))

    assert find_branches(coupling_of(Shared(), 3, 5)) == ()


def test_a_chain_has_no_branches() -> None:
    assert find_branches(coupling_of(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), 3, 4)) == ()


def test_a_deep_network_is_searched_quickly() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(250))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = torch.relu(x + block(x))
            return x

    coupling = coupling_of(Deep(), 2, 4)
    assert len(coupling.graph.nodes) >= 1500
    begun = time.process_time()
    assert len(find_branches(coupling)) == 250
    assert time.process_time() - begun < 1.0


def test_structure_rows_show_what_is_left() -> None:
    it = subject("digits")
    dense = structure_rows(it.coupling)
    assert sum(row.params_before for row in dense) == it.cost.price().params
    assert all(row.nonzero_after == row.params_before and not row.dropped for row in dense)
    assert all(row.units_after == row.units_before > 1 for row in dense)
    branch = next(b for b in find_branches(it.coupling) if b.id == "stage1.1.branch")
    reduction = whole(it).without(branch)
    assert reduction is not None
    axis = next(name for name in it.coupling.axes if name.startswith("stage2.3.branch.0.conv:out"))
    keep = {axis: np.arange(it.coupling.axes[axis].size) > 0}
    plan = reduction.as_plan(keep)
    rows = structure_rows(it.coupling, plan)
    assert sum(row.nonzero_after for row in rows) == plan.after.params
    assert {row.name for row in rows if row.dropped} == {name.rpartition(".")[0] for name in branch.tensors}
    (row,) = (row for row in rows if row.name == "stage2.3.branch.0.conv")
    assert (row.kind, row.units_before - row.units_after, row.dropped) == ("Conv2d", 1, False)


def test_structure_rows_of_an_emptied_segment_and_of_masks() -> None:
    it = subject("inception")
    found = {b.id: b for b in find_branches(it.coupling)}
    reduction = whole(it).without(found["a.deep"])
    assert reduction is not None
    plan = reduction.as_plan()
    rows = {row.name: row for row in structure_rows(it.coupling, plan)}
    assert sum(row.nonzero_after for row in rows.values()) == plan.after.params
    assert rows["a.deep.0.0"].dropped
    assert rows["a.deep.1.0"].dropped
    assert not rows["b.left.0"].dropped
    assert rows["a.deep.0.0"].units_after == 0


def branch_ids(branches: tuple[Branch, ...]) -> list[str]:
    return [b.id for b in branches]


def test_constants_do_not_blur_a_name() -> None:
    assert set(branch_ids(find_branches(subject("projected").coupling))) == {"main", "shortcut", "add_0", "inner"}


def test_ids_are_unique_and_stable() -> None:
    first, second = (branch_ids(find_branches(coupling_of(DigitsNet(), 2, 1, 8, 8))) for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)


class Clicks(nn.Module):
    """A sum of a bias for each id and of an MLP over the embedded ids, which has a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.biases, self.vectors = nn.Embedding(20, 8), nn.Embedding(20, 8)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.vectors(ids)
        return self.head(self.biases(ids) + (x + self.block(x)))


def test_a_branch_of_ids_alone_stays_where_forwards_are_kept() -> None:
    """No module can return zeros in the place of an embedding: its argument is no float tensor."""
    ids = torch.arange(20)
    kept, rewritten = (
        prunus.analyse(Clicks(), ids[:4], data=[(ids, ids % 3)], forward=forward) for forward in ("keep", "rewrite")
    )
    assert [branch.id for branch in droppable(kept)] == ["block"]
    assert "biases" in {branch.id for branch in droppable(rewritten)}
    for method in ("depth", "modular", "key-path", "key-path-moving", "joint"):
        outcome = prunus.realise(kept, kept.plan({"params": 0.4}, method=method), repair=None)
        assert outcome.check is not None
        assert outcome.check.ok
        assert outcome.after.params - outcome.plan.masked <= 0.4 * outcome.before.params
