"""The hierarchical procedure on small networks: fixed nodes, one budget, groups, strategies with their reasons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from factories_hierarchical import network, subject
from prunus.errors import OptionError
from prunus.plans import Plan


def left(plan: Plan) -> int:
    return plan.after.params - plan.masked


KINDS = ("Conv", "Attend", "Recurrent", "Recommender", "Mlp")


@pytest.mark.parametrize("kind", KINDS)
def test_one_budget_holds_over_all_levels_and_the_cut_is_proved(kind: str) -> None:
    model, example, batches = network(kind)
    made = prunus.prune(
        model, example, budget={"params": 0.4}, data=batches, method="hierarchical", repair=None, optimise="none"
    )
    plan = made.plan
    assert 0.95 * 0.4 * plan.before.params <= left(plan) <= 0.4 * plan.before.params
    assert made.check is not None
    assert made.check.ok
    assert [line.partition(":")[0] for line in plan.settings["hierarchy"] if not line.startswith(" ")] == [
        *("block", "unit"),
        *(
            ["unit strategies"]
            if any(line.startswith("unit strategies") for line in plan.settings["hierarchy"])
            else []
        ),
        *("window", "weight", "weight strategies"),
    ]
    stages = [row for row in plan.settings["evaluation"] if row["level"] == "stage"]
    assert sum(row["params"] for row in stages) == pytest.approx(1, abs=1e-5)
    assert any("loss" in row for row in stages)


def test_a_budget_of_macs_is_met_by_blocks_and_units() -> None:
    plan = subject("Conv").plan({"macs": 0.5}, method="hierarchical")
    assert plan.after.macs_forward <= 0.5 * plan.before.macs_forward
    assert not plan.masks


def test_a_rate_fixes_a_node_and_the_others_divide_the_rest() -> None:
    nodes = {"0": {"criterion": "magnitude", "rate": 0.5}, "4": {"method": "weights", "rate": 0.25}}
    plan = subject("Mlp").plan({"params": 0.5}, nodes=nodes, optimise="none")
    assert int(plan.axes["0:out"].sum()) == 10
    widths = [len(plan.keep.get("4.weight", {}).get(1, range(16)))]
    inside = 3 * widths[0]
    masked = plan.cut_masks()["4.weight"]
    assert int((~masked).sum()) == round(0.25 * inside)
    assert 0.95 * 0.5 * plan.before.params <= left(plan) <= 0.5 * plan.before.params
    norms = network("Mlp")[0][0].weight.detach().norm(dim=1).numpy()  # type: ignore[index, union-attr]
    kept = plan.axes["0:out"]
    assert norms[kept].min() >= norms[~kept].max() - 0.2
    reasons = {d.node: d.reason for d in plan.decisions}
    assert reasons["0:out"].startswith("rate 0.5 of '0', least magnitude")
    assert "rate 0.25 of '4'" in reasons["4.weight"]


def test_a_window_of_a_node_goes_as_a_whole() -> None:
    nodes = {"2": {"method": "window", "size": [1, 4], "rate": 0.5}, "0": {"method": "keep"}, "4": {"method": "keep"}}
    plan = subject("Mlp").plan({"params": 0.99}, nodes=nodes, optimise="none")
    assert plan.masks.keys() == {"2.weight"}
    assert not plan.axes
    windows = plan.masks["2.weight"].reshape(16, 5, 4)
    assert int((~windows).sum()) == 160
    whole = (windows.all(-1) | ~windows.any(-1)).sum()
    assert whole >= windows.shape[0] * windows.shape[1] - 1


def test_a_setting_holds_for_everything_inside_and_an_inner_one_replaces_it() -> None:
    nodes = {"stage1": {"method": "weights", "criterion": "magnitude"}, "2": {"method": "keep"}}
    plan = subject("Mlp").plan({"params": 0.8}, nodes=nodes, optimise="none")
    assert not plan.axes
    assert plan.masks.keys() <= {"0.weight", "4.weight"}
    assert all("given for 'stage1'" in d.reason for d in plan.decisions)


def test_groups_go_and_stay_as_they_are_addressed() -> None:
    weight = network("Mlp")[0][2].weight.detach().abs().numpy()  # type: ignore[index, union-attr]
    order = np.argsort(weight.reshape(-1), kind="stable")
    nodes = {
        "0": {"method": "keep"},
        "4": {"method": "keep"},
        "2/weights<q10": {"method": "remove"},
        "2/weights=q10-30": {"method": "keep"},
        "2": {"method": "weights", "rate": 0.5},
    }
    plan = subject("Mlp").plan({"params": 0.9}, nodes=nodes, optimise="none")
    flat = plan.masks["2.weight"].reshape(-1)
    assert not flat[order[:32]].any()
    assert flat[order[32:96]].all()
    assert int((~flat).sum()) == 160


def test_groups_of_units_by_their_activation() -> None:
    found = subject("Mlp")
    energy = {row.address: row for row in found.levels(groups="quantiles:4")[2].groups}
    assert [energy[f"stage1/0/units{g}@activation"].count for g in ("<q25", "=q25-50", "=q50-75", ">q75")] == [5] * 4
    nodes = {"0/units<q25@activation": {"method": "remove"}}
    plan = found.plan({"params": 0.9}, nodes=nodes, optimise="none")
    scores = prunus.methods.scored_units.unit_scores(found, "mean-activation")["0:out"]
    lowest = np.argsort(scores, kind="stable")[:5]
    assert not plan.axes["0:out"][lowest].any()
    assert "remove '0/units<q25@activation'" in next(d.reason for d in plan.decisions if d.node == "0:out")


def test_blocks_are_dropped_by_name_and_kept_by_name() -> None:
    dropped = subject("Conv").plan(
        {"params": 0.9}, nodes={"stage1/add_0": {"method": "blocks", "rate": 0.9}}, optimise="none"
    )
    reasons = [d.reason for d in dropped.decisions if d.level == "block"]
    assert reasons == ["rate 0.9 of 'stage1/add_0', least gate importance"]
    assert len(dropped.drops) == 1
    kept = subject("Conv").plan({"params": 0.3}, nodes={"a": {"rate": 0.5, "criterion": "l1"}}, optimise="none")
    assert not kept.drops
    assert int(kept.axes["a:out"].sum()) == 6


def test_auto_says_the_measured_rises_and_a_given_strategy_says_so() -> None:
    auto = subject("Recurrent").plan({"params": 0.5}, strategy="auto", optimise="none")
    assert any("strategy" in d.reason for d in auto.decisions)
    given = subject("Recurrent").plan({"params": 0.5}, strategy="activation", optimise="none")
    assert given.decisions
    assert all("strategy activation given" in d.reason for d in given.decisions)


def test_the_strategy_of_a_node_is_the_one_of_least_measured_rise() -> None:
    from prunus.methods.hierarchy.assignment import assign
    from prunus.methods.hierarchy.choices import Chooser
    from prunus.methods.hierarchy.trials import Trials
    from prunus.methods.hierarchy.values import UNIT_CRITERIA
    from prunus.methods.scored_units import unit_scores

    found = subject("Mlp")
    chooser = Chooser(assign(found, prunus.grow_tree(found.coupling), {}), "auto")
    trials, axes = Trials(found), found.free_axes()
    for axis, choice in chooser.units(found, axes).items():
        rises = {}
        for criterion in UNIT_CRITERIA.values():
            scores = unit_scores(found, criterion)[axis]
            keep = np.zeros(len(scores), bool)
            keep[np.argsort(-scores, kind="stable")[: len(scores) - round(0.5 * len(scores))]] = True
            rises[criterion] = trials.units({axis: keep})
        assert rises[choice.criterion] == pytest.approx(min(rises.values()), abs=1e-8)
        assert f"{rises[choice.criterion]:+.3g}" in choice.why


def test_without_data_weights_decide_and_the_budget_holds() -> None:
    plan = subject("Mlp", data=False).plan({"params": 0.4}, strategy="auto")
    assert 0.95 * 0.4 * plan.before.params <= left(plan) <= 0.4 * plan.before.params
    assert all("there are no data to compare by" in d.reason for d in plan.decisions)


def test_the_optimisation_between_levels_changes_what_the_next_level_scores() -> None:
    budget = {"params": 0.3}
    plans = [subject("Conv").plan(budget, strategy="weight", optimise=how) for how in ("none", "refit", "finetune:20")]
    lines = ["\n".join(plan.settings["hierarchy"]) for plan in plans]
    assert "optimised" not in lines[0]
    if any(plan.axes or plan.drops for plan in plans):
        assert "weights refitted by refold" in lines[1]
        assert "fine-tuned for 20 steps" in lines[2]


def test_plans_are_reproducible_and_the_model_is_left_alone() -> None:
    model, example, batches = network("Attend")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plans = [
        prunus.plan(model, example, budget={"params": 0.5}, data=batches, strategy="auto", optimise="finetune:3")
        for _ in range(2)
    ]
    assert plans[0] == plans[1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["Conv", "Recurrent", "Attend"])
def test_all_levels_together_lose_no_more_than_the_weights_alone(kind: str) -> None:
    from prunus.methods.hierarchy.procedure import Procedure
    from prunus.methods.hierarchy.settings import Division, Optimisation

    found = subject(kind)
    procedure = Procedure.of(found, found.limit(0.4), {}, "auto", Division(), Optimisation("none"))
    state = procedure.run()
    assert procedure.loss(state.plan()) == min(
        [procedure.loss(state.plan()), *(loss for loss, _ in procedure._weights_alone().values())]
    )
    assert procedure.limit.value >= state.spent() >= 0.95 * procedure.limit.value


def test_a_search_on_the_tree_is_no_worse_than_the_fixed_divisions_and_says_what_it_took() -> None:
    from prunus.methods.hierarchy.trials import trained_loss

    found = subject("Conv")
    fixed, searched = (found.plan({"params": 0.4}, method="multi-scale", search=n) for n in (0, 16))
    assert "hierarchy" not in fixed.settings
    assert fixed == found.plan({"params": 0.4}, method="multi-scale")
    assert trained_loss(found, searched) <= trained_loss(found, fixed)
    assert left(searched) <= 0.4 * searched.before.params
    if searched != fixed:
        assert "best of 16 assignments on the tree: blocks" in searched.settings["hierarchy"][-1]


def test_a_search_on_the_tree_keeps_the_settings_of_nodes() -> None:
    nodes = {"0": {"criterion": "magnitude", "rate": 0.5}}
    plan = subject("Mlp").plan({"params": 0.5}, method="multi-scale", nodes=nodes, search=10)
    assert int(plan.axes["0:out"].sum()) == 10
    assert left(plan) <= 0.5 * plan.before.params


def test_groups_that_go_and_stay_at_once_are_refused() -> None:
    nodes = {"0/weights<q30": {"method": "remove"}, "0/weights=q20-40": {"method": "keep"}}
    with pytest.raises(OptionError, match=r"is given two methods: 24 of its weights in '0.weight'"):
        subject("Mlp").plan({"params": 0.6}, nodes=nodes)


def test_where_settings_leave_no_weights_units_meet_the_budget() -> None:
    nodes = {"stage1": {"criterion": "magnitude"}, "head": {"method": "keep"}}
    plan = subject("Conv").plan({"params": 0.5}, nodes=nodes, optimise="none")
    assert not plan.masks
    assert plan.axes
    assert 0.9 * 0.5 * plan.before.params <= left(plan) <= 0.5 * plan.before.params


class Twice(nn.Module):
    """A container of two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layer1 = nn.Sequential(Residual(), Residual())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer1(self.stem(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", ["layer1", "*", "(network)", "Residual"])
def test_a_rate_of_blocks_counts_all_blocks_of_the_addressed_part_together(key: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    data = [(x, torch.randint(3, (32,)))]
    plan = prunus.plan(
        Twice(), x[:2], budget={"params": 0.9}, data=data, nodes={key: {"method": "blocks", "rate": 0.5}}
    )
    assert [d.reason for d in plan.decisions if d.level == "block"] == [f"rate 0.5 of {key!r}, least gate importance"]


def test_the_whole_network_is_a_key_by_the_name_that_levels_lists() -> None:
    plan = subject("Mlp").plan({"params": 0.8}, nodes={"(network)": {"criterion": "magnitude", "rate": 0.5}})
    assert [int(plan.axes[axis].sum()) for axis in ("0:out", "2:out")] == [10, 8]


def test_settings_that_undercut_the_budget_on_their_own_give_a_plan() -> None:
    nodes = {"0": {"criterion": "magnitude", "rate": 0.4}}
    net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    plan = prunus.plan(net, torch.randn(2, 2), budget={"params": 0.9}, nodes=nodes)
    assert int(plan.axes["0:out"].sum()) == 3
    assert not plan.masks
