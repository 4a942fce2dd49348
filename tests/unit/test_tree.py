"""The tree: levels, names, prices that add up, stages by three divisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from factories_tree import coupling, tree
from prunus.budget.knapsack_tree import solve_tree
from prunus.cost.price import cost_model
from prunus.errors import OptionError, SelectorError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.tree import find_branches, grow_tree
from prunus.tree.choices import ChoiceTree


def test_levels_are_named_and_nested() -> None:
    outline = [(n.level, n.id) for n in tree().below() if n.level in ("network", "stage", "block")]
    assert outline == [
        ("network", ""),
        ("stage", "stage1"),
        ("block", "stage1/low.0"),
        ("block", "stage1/low.1"),
        ("stage", "stage2"),
        ("block", "stage2/high.0"),
        ("block", "stage2/high.0/short"),
        ("block", "stage2/high.0/main"),
        ("block", "stage2/high.1"),
        ("stage", "stage3"),
        ("block", "stage3/attend.0"),
        ("block", "stage3/attend.1"),
        ("stage", "stage4"),
    ]
    assert [n.name for n in tree().children("stage1")] == ["stem", "low.0", "low.1"]
    assert [n.name for n in tree().children("stage1/low.1")] == ["conv1", "norm1", "conv2", "norm2"]
    node = tree().node("stage1/low.1/conv1")
    assert (node.level, node.module, node.kind) == ("layer", "low.1.conv1", "Conv2d")


def test_units_say_what_they_count() -> None:
    units = {n.id.removeprefix("stage3/attend.0/"): n.units for n in tree().below("stage3/attend.0") if n.axis}
    assert units["qkv/heads"] == 3
    assert units["qkv/head_width"] == 4
    assert units["qkv/inputs"] == 12
    assert units["norm/features"] == 12
    assert tree().node("stage1/stem/channels").axis == "stem:out"
    assert tree().node("stage4/head/fixed").axis == ""
    assert set(tree().axes()) == set(coupling().axes)


def test_blocks_that_can_go_name_their_branch() -> None:
    branches = {b.id for b in find_branches(coupling())}
    named = {n.branch for n in tree().at("block") if n.branch}
    assert {"low.0", "low.1", "high.1"} <= named <= branches
    block = tree().node("stage2/high.1")
    branch = next(b for b in find_branches(coupling()) if b.id == block.branch)
    assert (block.price.params, block.price.macs_forward) == (branch.params, branch.macs_forward)


def test_a_layer_costs_what_it_costs() -> None:
    conv = tree().node("stage1/low.0/conv1")
    assert conv.price.params == 8 * 8 * 9
    assert conv.price.macs_forward == 8 * 8 * 8 * 8 * 9
    assert conv.price.macs_backward == 2 * conv.price.macs_forward
    assert conv.price.param_bytes == 4 * conv.price.params
    own = tree().node("stage3/attend.0/own")
    assert (own.price.params, own.price.macs_forward) == (0, 2 * 3 * 16 * 16 * 4)
    assert tree().root.price == cost_model(coupling()).price()


def test_windows_and_weights_are_counted_not_listed() -> None:
    assert tree().weights("stage1/stem") == 8 * 3 * 9 + 8
    assert tree().windows("stage1/stem", 4, 4) == 2 * 7
    assert tree().windows("stage1/stem", 1, 27) == 8
    assert tree().windows("stage1", 100, 100) == 5
    with pytest.raises(OptionError, match="window is 0 × 4"):
        tree().windows("stage1", 0, 4)
    with pytest.raises(OptionError, match="level is 'window'"):
        tree().at("window")


def test_stages_by_depth_have_equal_numbers_of_parts() -> None:
    grown = grow_tree(coupling(), "depth", 3)
    assert [len(stage.children) for stage in grown.children("")] == [3, 3, 2]
    assert grown.root.price == tree().root.price


def test_stages_by_connections_are_balanced() -> None:
    sizes = [child.price.params for stage in tree().children("") for child in tree().children(stage.id)]
    grown = grow_tree(coupling(), "connections", 3)
    found = [stage.price.params for stage in grown.children("")]
    cuts = [(i, j) for i in range(1, len(sizes)) for j in range(i + 1, len(sizes))]
    assert max(found) == min(max(sum(sizes[:i]), sum(sizes[i:j]), sum(sizes[j:])) for i, j in cuts)
    assert all(found)


def test_every_count_gives_that_many_stages() -> None:
    for how in ("depth", "connections"):
        for count in range(1, 9):
            grown = grow_tree(coupling(), how, count)
            assert len(grown.children("")) == count, (how, count)
            assert all(stage.children for stage in grown.children(""))


def test_wrong_divisions_are_refused() -> None:
    with pytest.raises(OptionError, match="stages is 'width'; allowed: feature, depth, connections"):
        grow_tree(coupling(), "width")
    with pytest.raises(OptionError, match="stages='feature', which finds the number"):
        grow_tree(coupling(), "feature", 3)
    for count in (0, 9, True):
        with pytest.raises(OptionError, match="allowed: 1 to 8"):
            grow_tree(coupling(), "depth", count)
    with pytest.raises(SelectorError, match=r"No node 'stage1/low\.2' in the tree. Did you mean 'stage1/low"):
        tree().node("stage1/low.2")


def test_a_net_without_weights_is_a_tree_too() -> None:
    grown = grow_tree(couple(capture(nn.Sequential(nn.ReLU()), torch.zeros(1, 3))))
    assert grown.root.price.params == 0
    assert grown.root.children == ()


class Cached(nn.Module):
    """Joins what it computes to an empty vector, as attention does with a cache that nothing is in yet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("cache", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.cache, self.first(x)], -1))


def test_an_empty_vector_beside_other_operands_is_no_branch() -> None:
    found = couple(capture(Cached(), torch.zeros(2, 3, 4)))
    assert "first" not in [branch.id for branch in find_branches(found)]
    assert grow_tree(found).root.price.params == 4 * 6 + 6 + 6 * 2 + 2


def test_the_knapsack_drops_blocks_of_the_tree() -> None:
    cost = cost_model(coupling())
    damage = {a: np.append(np.linspace(1, 0.1, x.size), 0.0) for a, x in coupling().axes.items()}
    cheap = ChoiceTree.of(tree(), cost, damage, {"low.1": 0.01, "high.1": 50.0})
    found = cheap.read(solve_tree(cheap.root, int(0.7 * cost.price().params)))
    assert found.dropped == ("low.1",)
    assert "low.1.conv1:out" not in found.counts
    assert "high.1.conv1:out" in found.counts
    kept = cheap.read(solve_tree(cheap.root, cost.price().params))
    assert kept.dropped == ()
    assert kept.damage == 0
    assert kept.amount == cost.price().params
