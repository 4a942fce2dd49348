"""The hierarchical procedure on small networks: fixed nodes, one budget, groups, strategies with their reasons."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.analysis import Analysis
from prunus.errors import BudgetError, OptionError, SelectorError
from prunus.plans import Plan

Batches = list[tuple[Any, Tensor]]


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(torch.relu(x).mean((2, 3)))


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(20, 8), nn.Embedding(30, 8)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.users(user), self.items(item)], -1))


def inputs_of(kind: str, count: int, draw: torch.Generator) -> Any:
    if kind == "Recommender":
        return tuple(torch.randint(0, n, (count,), generator=draw) for n in (20, 30))
    shape = {"Conv": (1, 6, 6), "Attend": (5, 6), "Recurrent": (5, 6), "Mlp": (12,)}[kind]
    return torch.randn(count, *shape, generator=draw)


def first_of(inputs: Any) -> Tensor:
    return inputs[0] if isinstance(inputs, tuple) else inputs


@functools.cache
def network(kind: str) -> tuple[nn.Module, Any, Batches]:
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        if kind == "Mlp"
        else {"Conv": Conv, "Attend": Attend, "Recurrent": Recurrent, "Recommender": Recommender}[kind]()
    )
    batches = []
    for _ in range(3):
        inputs = inputs_of(kind, 32, draw)
        flat = first_of(inputs).reshape(32, -1)
        targets = (flat[:, 0] > 0).long() + (flat[:, -1] > 0).long() if flat.is_floating_point() else flat[:, 0] % 3
        batches.append((inputs, targets))
    return model.eval(), inputs_of(kind, 2, draw), batches


@functools.cache
def subject(kind: str, *, data: bool = True) -> Analysis:
    model, example, batches = network(kind)
    return prunus.analyse(model, example, data=batches if data else None)


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


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"nodes": {"*": {"method": "weights"}, "0": {"method": "units"}}}, OptionError, "'stage1/0' is given two methods"),
    ({"nodes": {"0": {"method": ["units", "weights"]}}}, OptionError, "'0' is given 2 methods"),
    ({"nodes": {"0": {"method": "units", "size": [1, 8]}}}, OptionError, "'0' is given two methods"),
    (
        {"nodes": {"0": {"criterion": "taylor", "strategy": "weight"}}},
        OptionError,
        "by criterion taylor and by strategy",
    ),
    ({"nodes": {"stage1/00": {"rate": 0.5}}}, SelectorError, "matches no part of the tree. Nearest: 'stage1/0'"),
    ({"nodes": {"1/units<q10": {"method": "remove"}}}, SelectorError, "matches no part of the tree"),
    ({"nodes": {"4": {"rate": 0.5}}}, SelectorError, "holds no units that could go"),
    ({"nodes": {"0": {"method": "remove"}}}, SelectorError, "holds no block that could be dropped"),
    ({"nodes": {"0": {"rate": 0}}}, OptionError, "rate is 0; allowed: a share between 0 and 1"),
    ({"nodes": {"0": {"rate": 1.5}}}, OptionError, "rate is 1.5; allowed: a share between 0 and 1"),
    ({"nodes": {"0": {"rate": True}}}, OptionError, "rate is True"),
    ({"nodes": {"0": {"rate": float("nan")}}}, OptionError, "rate is nan"),
    ({"nodes": {"0": {"rates": 0.5}}}, OptionError, "has the key 'rates'. Did you mean 'rate'?"),
    ({"nodes": {"0": {"criterion": "magnitud"}}}, OptionError, "'magnitud' is unknown. Did you mean 'magnitude'?"),
    ({"nodes": {"0": {"method": "depth"}}}, OptionError, "makes a plan of the whole network"),
    ({"nodes": {"0": {"method": "window", "size": [0, 8]}}}, OptionError, "size is [0, 8]"),
    ({"nodes": {"0": 0.5}}, OptionError, "is 0.5; allowed: a section"),
    ({"nodes": ["0"]}, OptionError, "allowed: a section from parts of the tree"),
    ({"nodes": {"0/units<q10": {}}}, OptionError, "is a group; give method remove or keep, or a rate"),
    ({"nodes": {"0/units<q10": {"method": "weights", "rate": 0.5}}}, OptionError, "is a group of units"),
    ({"divide": "breadth"}, OptionError, "divide is 'breadth'. Allowed: feature, depth, connections"),
    ({"divide": "depth:9"}, OptionError, "divide is depth:9"),
    ({"divide": "depth:x"}, OptionError, "divide is depth with count 'x'"),
    ({"divide": "feature:2"}, OptionError, "feature finds the number itself"),
    ({"strategy": "gradients"}, OptionError, "Did you mean 'gradient'?"),
    ({"optimise": "finetune"}, OptionError, "give its steps, as finetune:50"),
    ({"optimise": "polish"}, OptionError, "optimise is 'polish'; allowed: none, refit"),
    ({"strategy": "weight", "method": "depth"}, OptionError, "takes no strategy (got 'weight')"),
    ({"strategy": "weight", "criterion": "taylor"}, OptionError, "takes no criterion"),
)


@pytest.mark.parametrize(("options", "kind", "words"), BAD, ids=[words[:40] for _, _, words in BAD])
def test_bad_input_is_one_line(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as error:
        subject("Mlp").plan({"params": 0.5}, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"strategy": "gradient"}, {"strategy": "activation"}, {"nodes": {"0": {"strategy": "gradient"}}}]
)
def test_a_strategy_that_needs_data_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"strategy '(gradient|activation)'.* needs data=batches"):
        subject("Mlp", data=False).plan({"params": 0.5}, **options)


def test_fixed_nodes_that_break_the_budget_are_named_in_numbers() -> None:
    nodes = {name: {"method": "weights", "rate": 0.1} for name in ("0", "2", "4")}
    with pytest.raises(BudgetError, match="nodes of a given rate keep"):
        subject("Mlp").plan({"params": 0.5}, nodes=nodes)


def test_the_command_line_reads_settings_from_words_and_files(tmp_path: Any) -> None:
    from prunus.cli.options import nodes_of

    words = ["stage1/*:criterion=magnitude,rate=0.8", "re:.*mlp:method=window,size=1x8", "a/units<q10:method=remove"]
    expected = {
        "stage1/*": {"criterion": "magnitude", "rate": 0.8},
        "re:.*mlp": {"method": "window", "size": [1, 8]},
        "a/units<q10": {"method": "remove"},
    }
    assert nodes_of(words) == expected
    for name, text in {
        "n.json": '{"a": {"rate": 0.5, "size": [2, 2]}}',
        "n.yaml": "a: {rate: 0.5, size: [2, 2]}\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert nodes_of([str(tmp_path / name)]) == {"a": {"rate": 0.5, "size": [2, 2]}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a:rate=0.5", "a:rate=0.6"], "'a' is given two settings"),
        (["a:method=units,method=weights"], "is given two methods; give one"),
        (["a:rate="], "allowed: PART:KEY=VALUE"),
        (["nowhere.yaml"], "cannot be read"),
    ],
)
def test_wrong_words_of_the_command_line_are_one_line(words: list[str], said: str) -> None:
    from prunus.cli.options import nodes_of

    with pytest.raises(OptionError) as error:
        nodes_of(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('nodes: {"head": {rate: 2}}', "prune.nodes: 'head': rate is 2; allowed: a share between 0 and 1"),
        ("divide: breadth", "prune.divide: divide is 'breadth'. Allowed: feature"),
        ("strategy: gradients", "prune.strategy: strategy is 'gradients'. Did you mean 'gradient'?"),
        ("optimise: 3", "prune.optimise"),
    ],
)
def test_a_recipe_names_the_line_of_a_wrong_setting(line: str, said: str, tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"version: 1\nmodel: digits\ndata: digits\nprune:\n  budget: {{params: 0.5}}\n  {line}\n")
    with pytest.raises(prunus.errors.RecipeError) as error:
        prunus.load_recipe(path)
    assert said in str(error.value)
    assert f"{path}:6:" in str(error.value)


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
