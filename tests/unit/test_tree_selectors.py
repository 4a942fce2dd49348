"""Selectors: parts of the tree by id, module, glob, pattern, class; limits and `ignore` on them."""

from __future__ import annotations

import pytest
import torch

import prunus
from factories_tree import Hybrid, coupling, tree
from prunus.analysis.selectors import bounds_on, ignored_axes, select_nodes, selected_axes
from prunus.budget import Bound
from prunus.errors import BudgetError, OptionError, SelectorError

INPUTS = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stage3/*/heads", ["stage3/attend.0/qkv/heads", "stage3/attend.1/qkv/heads"]),
        ("stage2", ["stage2"]),
        ("low.1", ["stage1/low.1"]),
        ("low.?", ["stage1/low.0", "stage1/low.1"]),
        ("high.0.conv1", ["stage2/high.0/main/conv1"]),
        (
            "high.1.conv1:out",
            ["stage2/high.1/conv1/channels", "stage2/high.1/norm1/channels", "stage2/high.1/conv2/inputs"],
        ),
        ("Basic", ["stage1/low.0", "stage1/low.1", "stage2/high.0", "stage2/high.1"]),
        ("head_width", ["stage3/attend.0/qkv/head_width", "stage3/attend.1/qkv/head_width"]),
        ("re:^stage1/.*conv1$", ["stage1/low.0/conv1", "stage1/low.1/conv1"]),
    ],
)
def test_what_a_selector_means(pattern: str, expected: list[str]) -> None:
    assert [node.id for node in select_nodes(tree(), [pattern])] == expected


def test_what_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(SelectorError, match=r"'stage3/attend\.0/heads' matches no part of the tree. Did you mean 'sta"):
        select_nodes(tree(), ["stage3/attend.0/heads"])
    with pytest.raises(SelectorError, match=r"'Conv3d' matches no .* Did you mean 'Conv2d'\?"):
        select_nodes(tree(), ["stem", "Conv3d"])
    with pytest.raises(SelectorError, match="not a regular expression"):
        select_nodes(tree(), ["re:("])


def test_ignore_takes_parts_of_the_tree() -> None:
    assert ignored_axes(coupling(), ["stage3/*/heads"]) == selected_axes(tree(), ["stage3/*/heads"])
    assert len(ignored_axes(coupling(), ["stage3/*/heads", "low.1.conv1"])) == 4
    model = Hybrid().eval()
    result = prunus.prune(model, INPUTS, budget={"params": 0.6}, ignore=["stage3/*/heads", "stage1/low.0"])
    assert result.check.ok
    assert not {"attend.0.qkv:out[1]", "low.0.conv1:out", "stem:out"} & set(result.plan.axes)
    masked = prunus.prune(model, INPUTS, budget={"params": 0.7}, levels=("weight",), ignore=["stage1/*"])
    assert not any(name.startswith(("low", "stem")) for name in masked.plan.masks)


def test_limits_reach_the_axes_that_a_part_writes() -> None:
    found = bounds_on(tree(), {"low.0.conv2": {"floor": 5}})
    assert found == {"stem:out": Bound(floor=5)}
    assert set(bounds_on(tree(), {"low.0.conv2": {"frozen": True}})) == {"stem:out", "low.0.conv1:out"}
    assert set(bounds_on(tree(), {"stage1/low.0/conv2/inputs": {"floor": 5}})) == {"low.0.conv1:out"}


def test_later_limits_are_laid_over_earlier_ones() -> None:
    found = bounds_on(tree(), {"*/channels": {"round_to": 4, "floor": 4}, "low.*": {"floor": 0.75}})
    assert found["low.0.conv1:out"] == Bound(round_to=4, floor=0.75)
    assert found["high.1.conv1:out"] == Bound(round_to=4, floor=4)


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(OptionError, match=r"Unknown limit 'flor' of a node. Did you mean 'floor'\?"):
        bounds_on(tree(), {"stem": {"flor": 1}})
    with pytest.raises(OptionError, match="give a dict with any of floor, ceiling"):
        bounds_on(tree(), {"stem": 4})  # type: ignore[dict-item]
    with pytest.raises(SelectorError, match="'head' names no units that could go"):
        bounds_on(tree(), {"head": {"floor": 2}})
    with pytest.raises(OptionError, match="frozen and forced"):
        bounds_on(tree(), {"stem": {"frozen": True}, "low.0.conv2": {"forced": 4}})


def test_prune_holds_the_limits_of_parts() -> None:
    result = prunus.prune(
        Hybrid().eval(),
        INPUTS,
        budget={"params": 0.5},
        allocator="knapsack",
        bounds={"*/channels": {"round_to": 4}, "stage3/*/heads": {"frozen": True}, "low.1.conv1": {"forced": 2}},
    )
    assert result.check.ok
    assert result.after.params <= 0.5 * result.before.params
    kept = {axis: int(mask.sum()) for axis, mask in result.plan.axes.items()}
    assert kept.pop("low.1.conv1:out") == 2
    assert not any(axis.endswith("out[1]") for axis in kept)
    assert all(n % 4 == 0 for axis, n in kept.items() if "conv" in axis or "stem" in axis)
    assert result.plan.settings["allocator"] == "knapsack"


def test_limits_that_stand_in_the_way_are_named() -> None:
    with pytest.raises(BudgetError, match=r"or loosen the limits of '.*': it must keep 12 of 12 units, which holds"):
        prunus.prune(Hybrid().eval(), INPUTS, budget={"params": 0.3}, bounds={"stage2": {"frozen": True}})
    with pytest.raises(OptionError, match=r"Unknown allocator 'knapsak'. Did you mean 'knapsack'\?"):
        prunus.plan(Hybrid().eval(), INPUTS, budget={"params": 0.3}, allocator="knapsak")
