"""Budgets that count or compare: the pseudo-code of the founding texts, exact numbers, floors, and bad amounts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

import prunus
from factories_digits import fresh_subject
from prunus.budget.counts import Threshold, count_of, number_kept
from prunus.budget.useful import check_threshold
from prunus.cli.options import budget_of
from prunus.errors import BudgetError, OptionError, RecipeError, SelectorError
from prunus.experiments.recipe import load_recipe
from prunus.masks import Tile, window_means
from prunus.methods import METHODS
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import gradient_evidence, maskable

TEN = [0.05, -0.3, 0.1, 0.45, -0.02, 0.11, -0.09, 0.8, -0.15, 0.0]


class Ten(nn.Module):
    """Ten weights: a linear layer of ten inputs and one output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 1, bias=False)
        self.layer.weight.data = torch.tensor([TEN])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Residual(nn.Module):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 8)) for _ in range(blocks)
        )
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))


def batches(width: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(48, width, generator=generator), torch.randint(0, 3, (48,), generator=generator))]


def planned(budget: dict[str, Any], model: nn.Module | None = None, **options: Any) -> prunus.Plan:
    return prunus.plan(model or stack(), torch.zeros(2, 8), budget=budget, data=batches(), **options)


def ten_kept(budget: dict[str, Any], **options: Any) -> list[bool]:
    plan = prunus.plan(Ten(), torch.zeros(2, 10), budget=budget, **options)
    return list(plan.masks["layer.weight"][0].tolist())


def threshold_pruning(weights: list[float], threshold: float) -> list[bool]:
    """The pseudo-code of the first text, 2.2.1."""
    return [abs(np.float32(w)) > np.float32(threshold) for w in weights]


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5])
def test_a_threshold_keeps_what_the_first_text_keeps(threshold: float) -> None:
    expected = threshold_pruning(TEN, threshold)
    assert ten_kept({"threshold": threshold}, levels=("weight",)) == expected
    assert ten_kept({"threshold": threshold}, method="absolute-threshold") == expected


def test_a_weight_at_the_threshold_goes_in_the_first_text_and_stays_in_the_second() -> None:
    kept = ten_kept({"threshold": 0.1}, levels=("weight",)), ten_kept({"threshold": ">=0.1"}, levels=("weight",))
    assert [number for number in range(10) if kept[0][number] != kept[1][number]] == [2]


def test_a_threshold_is_relative_to_the_largest_the_mean_or_the_spread_of_a_layer() -> None:
    sizes = np.abs(TEN)
    for word, unit in (("max", sizes.max()), ("mean", sizes.mean()), ("std", sizes.std())):
        assert ten_kept({"threshold": f"0.5*{word}"}, levels=("weight",)) == list(sizes > 0.5 * unit)
    assert ten_kept({"threshold": 0.5}, method="relative-threshold") == list(sizes > 0.5 * sizes.max())
    assert ten_kept({"threshold": 0.5}, method="relative-std-threshold") == list(sizes > 0.5 * np.std(TEN))


def test_each_layer_has_its_own_largest() -> None:
    plan, model = planned({"threshold": "0.5*max"}, levels=("weight",)), stack()
    for name, mask in plan.masks.items():
        weight = model.get_parameter(name).detach().abs().numpy()
        assert (mask == (weight > 0.5 * weight.max())).all()


@pytest.mark.parametrize(
    ("method", "statistic"), [("gradient-threshold", "grad_abs"), ("importance", "grad_sq")], ids=str
)
def test_gradients_and_importances_are_compared_as_they_are(method: str, statistic: str) -> None:
    analysis = fresh_subject()
    values = {n: v for n, v in getattr(gradient_evidence(analysis), statistic).items() if n in maskable(analysis)}
    tau = float(torch.cat([v.reshape(-1) for v in values.values()]).median())
    plan = analysis.plan({"threshold": tau}, method=method)
    for name, value in values.items():
        above = value.cpu().numpy() > np.float32(tau)
        if above.any():
            assert (plan.masks.get(name, np.ones(above.shape, bool)) == above).all()


@pytest.mark.parametrize("method", ["sensitivity", "contribution", "magnitude"])
def test_units_above_a_threshold_stay_and_the_count_follows(method: str) -> None:
    analysis = fresh_subject()
    scores = unit_scores(analysis, method)
    tau = float(np.median(np.concatenate(list(scores.values()))))
    plan = analysis.plan({"threshold": tau}, method=method)
    for axis, values in scores.items():
        mask, above = plan.axes.get(axis, np.ones(len(values), bool)), values > tau
        assert (mask == above).all() or (not above.any() and mask.sum() == 1 and mask[values.argmax()])
    kept = sum(int(plan.axes.get(axis, np.ones(len(s), bool)).sum()) for axis, s in scores.items())
    assert plan.settings["counted"] == {"kind": "units", "kept": kept, "of": sum(map(len, scores.values()))}
    assert f"{method} ≤ " in plan.decisions[0].reason


@pytest.mark.parametrize("method", ["sensitivity", "contribution"])
def test_the_best_fifth_of_all_units_stays_as_in_the_first_text(method: str) -> None:
    analysis = fresh_subject()
    scores = unit_scores(analysis, method)
    total = sum(map(len, scores.values()))
    plan = analysis.plan({"units": 0.2}, method=method)
    top = np.sort(np.concatenate(list(scores.values())))[::-1][: int(0.2 * total)]
    kept = {a: plan.axes.get(a, np.ones(len(s), bool)) for a, s in scores.items()}
    assert sum(int(mask.sum()) for mask in kept.values()) == int(0.2 * total)
    lost = [s[~kept[a] & (s >= top[-1])] for a, s in scores.items()]
    # A layer below the ranking keeps its best unit in place of the last of the ranking.
    alone = sum(int(s[kept[a]].max() < top[-1]) for a, s in scores.items())
    assert sum(map(len, lost)) == alone


def test_a_number_is_a_share_of_a_number() -> None:
    same = planned({"units": 12}), planned({"top_n": 12}), planned({"units": 0.4})
    assert {str(plan.axes) for plan in same} == {str(same[0].axes)}
    assert same[0].settings["counted"] == {"kind": "units", "kept": 12, "of": 30}


def test_an_allocator_says_whether_layers_compete() -> None:
    model = stack()
    with torch.no_grad():
        model[2].weight.mul_(100)  # its units have the largest norms by far
    raw, by_mean, even = (
        [int(planned({"units": 0.5}, model, allocator=name).axes.get(a, np.ones(n)).sum()) for a, n in sizes]
        for name in (None, "global", "uniform")
        for sizes in [[("0:out", 20), ("2:out", 10)]]
    )
    assert raw == [5, 10]
    assert by_mean != raw
    assert even == [10, 5]


def test_layers_have_rates_of_their_own() -> None:
    plan = planned({"units": {"0": 0.25, "2": 7}})
    assert {a: int(m.sum()) for a, m in plan.axes.items()} == {"0:out": 5, "2:out": 7}
    plan = planned({"weights": {"*": 0.5, "4": 12}})
    assert {n: int(m.sum()) for n, m in plan.masks.items()} == {"0.weight": 80, "2.weight": 100, "4.weight": 12}
    plan = planned({"threshold": {"0": 0.1, "4": "0.5*mean"}}, levels=("weight",))
    assert set(plan.masks) == {"0.weight", "4.weight"}
    assert {d.node: d.reason for d in plan.decisions} == {
        "0.weight": "magnitude ≤ 0.1",
        "4.weight": "magnitude ≤ 0.5*mean",
    }


def test_windows_are_counted_and_compared_by_their_mean() -> None:
    model = stack()
    plan = planned({"windows": 0.3}, model)
    weights = {n: p.detach().abs() for n, p in model.named_parameters() if p.dim() == 2}
    means, number = window_means(weights, Tile(4, 4))
    total = sum(len(m) for m in means.values())
    for name, mask in plan.masks.items():
        of_window = [mask[(number[name] == window).numpy()] for window in range(len(means[name]))]
        assert all(part.all() or not part.any() for part in of_window)  # only whole windows
    kept = {n: [bool(plan.masks[n][(number[n] == w).numpy()].all()) for w in range(len(m))] for n, m in means.items()}
    assert sum(map(sum, kept.values())) == int(0.3 * total)
    compared = planned({"threshold": 0.1}, model, method="window-tile")
    for name, mask in compared.masks.items():
        assert (mask == (means[name] > 0.1)[number[name]].numpy()).all()


def test_a_layer_below_the_threshold_keeps_its_best() -> None:
    model = stack()
    with torch.no_grad():
        model[0].weight.mul_(1e-4)
    masks = planned({"threshold": 0.05}, model, levels=("weight",)).masks["0.weight"]
    assert masks.sum() == 1
    assert masks.reshape(-1)[model[0].weight.abs().argmax()]
    axis = planned({"threshold": 0.05}, model).axes["0:out"]
    assert axis.sum() == 1


def test_modules_stay_by_rank_or_by_threshold() -> None:
    found = prunus.prune(Residual(), torch.zeros(2, 8), budget={"modules": 0.5}, data=batches(), repair=None)
    plan = found.plan
    assert plan.settings["counted"] == {"kind": "modules", "kept": 2, "of": 4}
    worth = {d.node: float(d.reason.rpartition(" ")[2]) for d in plan.decisions}
    more = planned({"modules": 1}, Residual())
    every = {d.node: float(d.reason.rpartition(" ")[2]) for d in more.decisions}
    assert set(worth) == set(sorted(every, key=lambda name: every[name])[:2])
    tau = max(worth.values()) * 1.01
    compared = planned({"threshold": tau}, Residual(), method="modular")
    assert {d.node for d in compared.decisions} == set(worth)
    assert found.after.params < found.before.params


def test_bounds_hold_beside_a_count() -> None:
    plan = planned({"units": 9}, bounds={"2": {"round_to": 4}, "0": {"floor": 5}})
    kept = {a: int(m.sum()) for a, m in plan.axes.items()}
    assert kept == {"0:out": 5, "2:out": 4}
    plan = planned({"threshold": 0.45}, bounds={"0": {"frozen": True}}, criterion="magnitude")
    assert set(plan.axes) == {"2:out"}


def test_heads_stay_whole_and_layers_in_proportion() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.heads, self.qkv, self.out = 4, nn.Linear(16, 48), nn.Linear(16, 16)
            self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.out(y)
            return x + self.down(torch.relu(self.up(x)))

    x = torch.randn(2, 5, 16)
    for budget in ({"units": 0.5}, {"threshold": "1*mean"}, {"units": {"*": 0.5}}):
        small = prunus.prune(Attention().eval(), x, budget=budget)
        assert small.check is not None
        assert small.check.ok
        assert small.after.params < small.before.params


def test_a_cut_network_computes_what_the_masked_one_computes() -> None:
    for budget in ({"units": 0.3}, {"threshold": "0.9*mean"}):
        small = prunus.prune(stack(), torch.zeros(2, 8), budget=budget, data=batches(), criterion="sensitivity")
        assert small.check is not None
        assert small.check.ok
        assert "scored by: sensitivity" in str(small)


def test_an_outcome_takes_another_count() -> None:
    small = prunus.prune(stack(), torch.zeros(2, 8), budget={"units": 12}, data=batches(), repair=None)
    assert small.rebudget({"threshold": "0.8*max"}).plan.settings["counted"]["kind"] == "units"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(1e-6, 1e6, allow_nan=False), min_size=2, max_size=20, unique=True),
    inclusive=st.booleans(),
    high=st.booleans(),
    of=st.sampled_from(["", "max", "mean"]),
    kind=st.sampled_from(["float32", "float64"]),
)
@example(values=[0.1, 0.8], inclusive=False, high=True, of="", kind="float32")
def test_the_value_that_a_message_names_divides(
    values: list[float], inclusive: bool, high: bool, of: Any, kind: str
) -> None:
    scores = np.unique(np.array(values, kind))
    assume(len(scores) > 1)
    useless = Threshold(1e9 if high else 0.0, of, inclusive)
    with pytest.raises(BudgetError) as refused:
        check_threshold({"a": (scores, useless)}, "weights", "magnitude")
    named = re.search(r"Give ([^ *]+)", str(refused.value))
    assert named is not None
    kept = Threshold(float(named[1]), of, inclusive).keeps(scores).sum()
    assert 0 < kept < len(scores)


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ({"threshold": 5}, {"levels": ("weight",)}, "removes all 390 weights by their magnitude: the largest is"),
        ({"threshold": 0}, {"levels": ("weight",)}, "removes none of 390 weights by their magnitude: the smallest is"),
        ({"threshold": "2*max"}, {}, "removes all 30 units by their magnitude: the largest is 1*max. Give 0.9999*max"),
        ({"threshold": -1}, {}, "budget threshold is -1; allowed: a number from 0"),
        ({"threshold": "0.1*min"}, {}, "budget threshold is '0.1*min'"),
        ({"threshold": True}, {}, "budget threshold is True"),
        ({"threshold": {"0": "x"}}, {}, "budget threshold of '0' is 'x'"),
        ({"units": 1}, {}, "keeps 1 of 30 units, and each layer keeps its least: 2 in all. Give 2 or more"),
        ({"units": 30}, {}, "keeps all 30 units; nothing would go"),
        ({"units": 0}, {}, "budget units is 0; allowed: a share in (0, 1] or a whole number of at least 1"),
        ({"units": 1.5}, {}, "budget units is 1.5"),
        ({"units": "half"}, {}, "budget units is 'half'"),
        ({"units": {}}, {}, "a section of layers and amounts"),
        ({"units": {"nine": 0.5}}, {}, "Selector 'nine' matches no part of the tree"),
        ({"weights": {"nine": 0.5}}, {}, "Selector 'nine' matches no module, class or tensor"),
        ({"weights": {"1": 0.5}}, {}, "Selector '1' names no weights that could be masked"),
        ({"weights": 2}, {}, "keeps 2 of 390 weights, and each of 3 layers keeps its best. Give 3 or more"),
        ({"weights": 1.0}, {}, "keeps all 390 weights"),
        ({"top_n": 0.5}, {}, "budget top_n is 0.5; allowed: a whole number of at least 1"),
        ({"top_n": 9}, {"method": "depth"}, "ranks the scores of single parts, and method 'depth' has none"),
        ({"top_n": 9}, {"levels": ("unit", "weight")}, "method 'units-weights' has none"),
        ({"modules": 0.3}, {}, "no block or branch that it can do without"),
        ({"modules": {"a": 0.3}}, {}, "allowed: one amount for the network"),
        ({"top_n": {"a": 3}}, {"method": "modular"}, "of modules is one amount for the network"),
        ({"units": 0.5, "params": 0.5}, {}, "budget units stands beside params"),
        ({"threshold": 0.5, "max_drop": 0.1}, {}, "budget threshold stands beside max_drop"),
        ({"units": 0.5}, {"method": "importance"}, "beside method 'importance', which ranks weights"),
        ({"weights": 0.5}, {"levels": ("unit", "weight")}, "ranks weights here, and levels is"),
        ({"units": 0.5}, {"search": 3}, "stands beside search: 3"),
        ({"units": 0.5}, {"stages": [{"level": "units"}]}, "stands beside stages"),
        ({"units": 0.5}, {"criterion": "obs-units"}, "gives no score to rank or compare"),
        ({"units": 0.5}, {"allocator": "knapsack"}, "takes global or uniform"),
        ({"threshold": 0.5}, {"allocator": "global"}, "a threshold divides nothing"),
        ({"units": {"0": 0.5}}, {"allocator": "global"}, "an amount of every layer divides nothing"),
    ],
    ids=str,
)
def test_what_divides_nothing_is_refused_in_a_line(budget: Any, options: Any, message: str) -> None:
    with pytest.raises((OptionError, BudgetError, SelectorError)) as refused:
        planned(budget, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_equal_scores_have_no_threshold_between_them() -> None:
    model = Ten()
    model.layer.weight.data.fill_(0.25)
    with pytest.raises(BudgetError, match=r"all are 0.25, so no threshold divides them"):
        prunus.plan(model, torch.zeros(2, 10), budget={"threshold": 0.5}, levels=("weight",))


def test_a_recipe_refuses_an_amount_with_its_line(tmp_path: Any) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nmodel: digits\ndata: digits\nprune:\n  budget: {units: {stem: true}}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:5: prune.budget.units"):
        load_recipe(path)
    path.write_text("version: 1\nmodel: digits\ndata: digits\nprune:\n  budget: {threshold: '0.1*max'}\n")
    assert load_recipe(path).prune.budget == {"threshold": "0.1*max"}


def test_words_of_the_command_line_name_layers() -> None:
    assert budget_of(["units:a=0.5", "units:re:b.*=3"]) == {"units": {"a": 0.5, "re:b.*": 3}}
    for words in (["units:a=1", "units:a=2"], ["units=1", "units:a=2"], ["units:a=2", "units=1"]):
        with pytest.raises(OptionError, match="is given twice"):
            budget_of(words)


def test_shares_are_rounded_down_and_numbers_are_exact() -> None:
    assert [number_kept(0.29, 100), number_kept(0.5, 7), number_kept(9, 7), number_kept(3, 7)] == [29, 3, 7, 3]
    count = count_of({"units": np.float64(0.5)})
    assert count is not None
    assert (str(count), count.compares) == ("units: 0.5", False)
    assert count_of({"params": 0.5}) is None


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS.get(name).counts])
def test_every_method_that_ranks_keeps_a_number(name: str) -> None:
    member = METHODS.get(name)
    model = Residual()
    number = {"units": 20, "weights": 100, "windows": 30, "modules": 2}[member.counts]
    plan = planned({"top_n": number}, model, method=name)
    assert plan.settings["counted"]["kept"] == number
    assert plan.settings["counted"]["kind"] == member.counts
