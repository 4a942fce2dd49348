"""Integrated pruning: any list of methods with shares and order under one budget; and criteria of branches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from factories_digits import fresh_subject
from prunus.errors import BudgetError, OptionError
from prunus.methods import integrated as integrated_module
from prunus.methods.branch_scores import branch_scores
from prunus.methods.integrated_parts import canonical_parts, shares_of
from prunus.methods.reduction import droppable, whole
from prunus.plans import Plan


class Blocks(nn.Module):
    """Residual blocks; block i adds ``scales[i]`` times a ReLU of its own."""

    def __init__(self, scales: tuple[float, ...] = (1.0, 0.05, 2.0)) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU()) for _ in scales
        )
        with torch.no_grad():
            for block, scale in zip(self.blocks, scales, strict=True):
                block[2].weight *= scale
                block[2].bias *= scale
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(64, 8, generator=generator), torch.randint(0, 3, (64,), generator=generator))]


def analysed(model: nn.Module | None = None) -> prunus.Analysis:
    return prunus.analyse(model or Blocks(), torch.zeros(2, 8), data=data())


def spent(plan: Plan) -> int:
    return plan.after.params - plan.masked


def values_of(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the output of every block, and the sum behind it."""
    x, found = model.stem(data()[0][0]), []
    for block in model.blocks:
        branch = block(x)
        x = x + branch
        found.append((branch.detach(), x.detach()))
    return found


def test_criteria_of_branches_are_means_of_their_values() -> None:
    analysis = analysed()
    branches, found = droppable(analysis), values_of(analysis.model)
    expected = {
        "mean-activation": [float(b.abs().mean()) for b, _ in found],
        "contribution": [float(b.square().sum() / s.square().sum()) for b, s in found],
        "apoz": [float((b != 0).double().mean()) for b, _ in found],
    }
    for name, values in expected.items():
        scores = list(branch_scores(whole(analysis), branches, name).values())
        assert scores == pytest.approx(values, rel=1e-4)
    mixed = branch_scores(whole(analysis), branches, {"mean-activation": 1, "apoz": 3})
    parts = [np.array(expected[name]) / np.mean(expected[name]) for name in ("mean-activation", "apoz")]
    assert list(mixed.values()) == pytest.approx(list(0.25 * parts[0] + 0.75 * parts[1]), rel=1e-4)


@pytest.mark.parametrize("criterion", ["mean-activation", "contribution", {"contribution": 1, "gate": 0.01}], ids=str)
def test_modules_leave_in_the_order_of_the_criterion(criterion: Any) -> None:
    analysis = analysed()
    counted = analysis.plan({"modules": 2}, criterion=criterion)
    assert [d.node for d in counted.decisions] == ["blocks.1"]
    assert counted.settings["counted"] == {"kind": "modules", "kept": 2, "of": 3}
    for method in ("modular", "depth"):
        plan = analysis.plan({"params": 0.715}, method=method, criterion=criterion)
        assert [drop.label for drop in plan.drops] == ["blocks.1"]
        assert spent(plan) <= 0.715 * plan.before.params


def test_modules_above_a_threshold_stay() -> None:
    analysis = analysed()
    plan = analysis.plan({"threshold": 0.05}, method="modular", criterion="contribution")
    scores = branch_scores(whole(analysis), droppable(analysis), "contribution")
    assert {drop.label for drop in plan.drops} == {name for name, score in scores.items() if score <= 0.05}
    assert "contribution to the sum ≤ 0.05" in plan.decisions[0].reason


def test_activation_criteria_need_no_labels() -> None:
    inputs = [x for x, _ in data()]
    plan = prunus.plan(Blocks(), torch.zeros(2, 8), budget={"modules": 2}, criterion="contribution", data=inputs)
    assert [d.node for d in plan.decisions] == ["blocks.1"]


def test_depth_by_a_criterion_scores_the_network_so_far() -> None:
    analysis = analysed(Blocks((1.0, 0.05, 2.0, 0.5)))
    plan = analysis.plan({"params": 0.45}, method="depth", criterion="contribution")
    assert len(plan.drops) == 2
    assert "least contribution to the sum of 3 branches" in plan.decisions[1].reason
    first, second = plan.decisions[:2]
    start = whole(analysis)
    smaller = start.without(next(b for b in droppable(analysis) if b.id == first.node))
    assert smaller is not None
    again = branch_scores(smaller, smaller.left(droppable(analysis)), "contribution")
    assert second.node == min(again, key=lambda name: again[name])


LISTS: tuple[Any, ...] = (
    (),
    ["fine-tuning=0.4", "structured", "activation"],
    [{"name": "structured", "share": 0.2}, {"name": "activation", "criterion": "apoz", "share": 0.8}],
    ["depth", "sensitivity", "importance-weighted"],
    [{"name": "depth", "criterion": "contribution"}, {"name": "units", "criterion": {"magnitude": 1, "taylor": 2}}],
    ["modular", "unit-wise", {"name": "weights", "criterion": "wanda"}],
    [{"name": "units", "criterion": "fisher", "allocator": "lagrangian"}, "window-tile"],
    ["contribution", {"name": "window-wise", "window": [1, 4], "criterion": "importance"}],
    ["importance", "lamp"],
    ["activation"],
)


@pytest.mark.parametrize("methods", LISTS, ids=str)
@pytest.mark.parametrize("kept", [0.6, 0.3])
def test_any_list_of_methods_meets_one_budget(methods: Any, kept: float) -> None:
    analysis = analysed()
    plan = analysis.plan({"params": kept}, method="integrated", methods=methods)
    limit = int(kept * plan.before.params)
    assert 0.85 * limit <= spent(plan) <= limit
    names = [entry["name"] for entry in plan.settings["methods"]]
    assert names == [part.name for part in canonical_parts(methods)] or not methods
    done = prunus.realise(analysis, plan, repair=None)
    assert done.check is not None
    assert done.check.error < 1e-4


def test_the_default_is_fine_tuning_structured_and_activation_pruning() -> None:
    analysis = fresh_subject()
    plan = analysis.plan({"params": 0.3}, method="integrated")
    assert [entry["name"] for entry in plan.settings["methods"]] == ["fine-tuning", "structured", "activation"]
    reasons = " / ".join(decision.reason for decision in plan.decisions)
    for words in ("in rounds of pruning and training", "most alike", "lowest mean-activation of what"):
        assert words in reasons
    named = analysis.plan({"params": 0.3}, method="integrated", methods=["fine-tuning", "structured", "activation"])
    assert all((plan.axes[axis] == named.axes[axis]).all() for axis in plan.axes | named.axes)


def test_an_axis_that_several_methods_narrow_has_one_decision() -> None:
    plan = fresh_subject().plan({"params": 0.4}, method="integrated", methods=["magnitude", "contribution"])
    nodes = [decision.node for decision in plan.decisions]
    assert len(nodes) == len(set(nodes)) == len(plan.axes)
    assert all(decision.removed == int((~plan.axes[decision.node]).sum()) for decision in plan.decisions)
    assert any(
        "lowest magnitude of what" in d.reason and "lowest contribution of what" in d.reason for d in plan.decisions
    )


def test_shares_divide_the_saving_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, targets = fresh_subject(), []
    take = integrated_module._take

    def watched(state: Any, part: Any, limit: Any, *, last: bool) -> None:
        targets.append((part.name, state.spent, limit.value))
        take(state, part, limit, last=last)

    monkeypatch.setattr(integrated_module, "_take", watched)
    total, kept = analysis.cost.price().params, 0.3
    methods = [{"name": "sensitivity", "share": 0.6}, {"name": "activation", "share": 0.3}, "importance"]
    analysis.plan({"params": kept}, method="integrated", methods=methods)
    assert [name for name, _, _ in targets] == ["sensitivity", "activation", "importance"]
    assert targets[0][2] == pytest.approx(total * kept**0.6, rel=1e-3)
    assert targets[1][2] == pytest.approx(targets[1][1] ** 0.25 * (kept * total) ** 0.75, rel=1e-3)
    assert targets[2][2] == int(kept * total)
    assert targets[1][1] <= targets[0][2]


def test_the_order_of_the_methods_matters() -> None:
    analysis = fresh_subject()
    one, other = (
        analysis.plan({"params": 0.4}, method="integrated", methods=list(order))
        for order in (("magnitude", "contribution"), ("contribution", "magnitude"))
    )
    assert any((one.axes[axis] != other.axes[axis]).any() for axis in one.axes.keys() & other.axes.keys())


def test_later_methods_are_scored_on_what_the_earlier_left(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, removed = fresh_subject(), []
    masked = integrated_module.masked_copy

    def watched(reduction: Any, keep: Any) -> Any:
        removed.append(sum(int((~mask).sum()) for mask in keep.values()))
        return masked(reduction, keep)

    monkeypatch.setattr(integrated_module, "masked_copy", watched)
    analysis.plan({"params": 0.3}, method="integrated", methods=["sensitivity", "contribution", "importance"])
    assert removed[0] == 0
    assert 0 < removed[1] < removed[2]


def test_a_second_method_of_weights_chooses_among_the_weights_of_the_first() -> None:
    analysis = analysed()
    both = analysis.plan({"params": 0.3}, method="integrated", methods=["importance", "magnitude", "lamp"][::2])
    first = analysis.plan({"params": 0.3**0.5}, method="integrated", methods=["importance"])
    for name, mask in both.masks.items():
        assert not (mask & ~first.masks.get(name, np.ones_like(mask))).any()


def test_weights_are_left_out_where_zeros_save_nothing() -> None:
    analysis = fresh_subject()
    plan = analysis.plan({"macs": 0.5}, method="integrated", methods=["sensitivity=0.5", "importance=0.5"])
    assert not plan.masks
    assert 0.85 * 0.5 <= plan.after.macs_forward / plan.before.macs_forward <= 0.5
    with pytest.raises(BudgetError, match="Name a method of branches or units too"):
        analysis.plan({"macs": 0.5}, method="integrated", methods=["importance"])


def test_shares_that_are_not_given_divide_the_rest() -> None:
    assert shares_of(canonical_parts(["depth=0.5", "units", "weights"])) == [0.5, 0.25, 0.25]
    assert shares_of(canonical_parts(["depth", "units", "weights"])) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("depth", "methods is 'depth'; allowed: a list such as"),
        ([3], "methods holds 3; allowed: a name"),
        (["depht"], "'depht' is unknown and cannot be one of several. Did you mean 'depth'?"),
        (["sparsegpt"], "'sparsegpt', which plans the whole network by itself and cannot be one of several"),
        ([{"name": "depth", "rate": 0.4}], "'depth' has the key 'rate'"),
        (["depth=0"], "the share of 'depth' is 0.0; allowed: a number above 0, up to 1"),
        (["depth=half"], "the share of 'depth' is 'half'"),
        (["depth=0.7", "units=0.7"], "the shares add up to 1.4; allowed: 1 in all"),
        (["depth=0.2", "units=0.2"], "the shares add up to 0.4; allowed: 1 in all"),
        (["depth=0.5", "units=0.5", "weights"], "add up to 1, and 1 without a share divide the rest"),
        (["importance", "units"], "'importance' masks weights before 'units' removes whole parts"),
        ([{"name": "structured", "criterion": "apoz"}], "'structured' has a criterion of its own"),
        ([{"name": "sensitivity", "criterion": "apoz"}], "'sensitivity' has a criterion of its own"),
        ([{"name": "depth", "criterion": "taylor"}], "'taylor' scores no branches"),
        ([{"name": "units", "criterion": "lamp"}], "'lamp' scores weights, and units are ranked here"),
        ([{"name": "weights", "criterion": "fisher"}], "'fisher' scores units, and weights are ranked here"),
        ([{"name": "activation", "criterion": "obs-units"}], "gives no score to rank"),
        ([{"name": "depth", "allocator": "uniform"}], "only methods of units take one"),
        ([{"name": "units", "window": [2, 2]}], "for 'window-wise' alone"),
        ([{"name": "window-wise", "window": "units=2"}], "for 'window-wise' alone"),
    ],
    ids=str,
)
def test_a_list_that_cannot_be_carried_out_is_refused_in_one_line(methods: Any, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        analysed().plan({"params": 0.5}, method="integrated", methods=methods)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
