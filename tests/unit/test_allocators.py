"""Allocators against numbers worked out by hand; what is predicted, and what a search on the true loss adds."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from factories_tree import coupling as hybrid
from prunus.budget import ALLOCATORS, Bound, Limit, UnitProblem, allocate, unit_problem
from prunus.budget.evolutionary_search import Search, refine
from prunus.budget.knapsack_tree import Group, Leaf, solve_tree
from prunus.budget.proportional import erk_counts, erk_proportion
from prunus.budget.ranking import isomorphic_groups
from prunus.budget.weights import fit_weights
from prunus.cost.price import CostModel, cost_model
from prunus.criteria.lamp import lamp_scores
from prunus.errors import BudgetError, OptionError, SelectorError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple

INPUTS = torch.randn(2, 6)
FIRST, SECOND = "0:out", "2:out"


@functools.cache
def cost() -> CostModel:
    return cost_model(couple(capture(mlp(), INPUTS)))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def problem(value: int = 170, **more: object) -> UnitProblem:
    rng = np.random.default_rng(0)
    scores = {a: rng.random(x.size) for a, x in cost().coupling.axes.items()}
    return unit_problem(cost(), scores, Limit("params", value), **more)  # type: ignore[arg-type]


def test_erk_by_hand() -> None:
    assert erk_proportion([(4, 2)]) == 6 / 8
    assert erk_proportion([(4, 2), (10, 10)]) == 26 / 108
    # Σ dims 20 and 6: ε · 26 = 13 gives 10 and 3.
    assert erk_counts({"large": (10, 10), "small": (4, 2)}, 13) == {"large": 10, "small": 3}
    # At 60 the small one would get 13.8 of its 8: it is full, the rest goes to the other.
    assert erk_counts({"large": (10, 10), "small": (4, 2)}, 60) == {"large": 52, "small": 8}
    assert erk_counts({"large": (10, 10), "small": (4, 2)}, 108) == {"large": 100, "small": 8}
    assert sum(erk_counts({"a": (7, 3), "b": (5, 5), "c": (3,)}, 17).values()) == 17
    with pytest.raises(BudgetError, match="allowed: 0 to 108"):
        erk_counts({"large": (10, 10), "small": (4, 2)}, 109)


def test_erk_gives_the_small_axis_the_larger_share() -> None:
    counts = ALLOCATORS.get("erk")(problem(170))
    # 22/96 and 28/192 for the weights of the first axis, 28/192 and 15/36 for those of the second.
    assert counts[SECOND] / 12 > counts[FIRST] / 16
    wanted = ((28 + 15) / (192 + 36)) / ((22 + 28) / (96 + 192))
    assert abs(counts[SECOND] / 12 / (counts[FIRST] / 16) - wanted) < 0.2


def test_lamp_by_hand() -> None:
    found = lamp_scores(np.array([1.0, 3.0, 2.0]))
    np.testing.assert_allclose(found, [1 / 14, 1.0, 4 / 13])
    masks = fit_weights({"a": np.array([1.0, 3.0, 2.0]), "b": np.array([10.0, 10.0])}, 3, "lamp")
    # b: 1 and 1/2; a: 1, 4/13, 1/14. Global magnitude would take both of b and the 3.
    assert masks["a"].tolist() == [False, True, False]
    assert masks["b"].tolist() == [True, True]
    assert fit_weights({"a": np.array([1.0, 3.0]), "b": np.array([9.0, 8.0, 7.0])}, 3)["a"].tolist() == [False, False]


def test_weights_beyond_all_there_are_are_refused() -> None:
    with pytest.raises(BudgetError, match="allowed: 0 to 2"):
        fit_weights({"a": np.ones(2)}, 3)
    with pytest.raises(OptionError, match="Unknown weight_allocator 'knapsack'"):
        fit_weights({"a": np.ones(2)}, 1, "knapsack")


def test_isomorphic_axes_are_grouped() -> None:
    groups = {frozenset(group) for group in isomorphic_groups(hybrid(), hybrid().axes)}
    assert frozenset({"low.0.conv1:out", "low.1.conv1:out", "high.0.conv1:out", "high.1.conv1:out"}) in groups
    assert frozenset({"attend.0.qkv:out[1]", "attend.1.qkv:out[1]"}) in groups
    assert sum(len(group) for group in groups) == len(hybrid().axes)


def test_isomorphic_ranks_within_a_group_only() -> None:
    model = cost_model(hybrid())
    scores = {a: np.full(x.size, 1.0) for a, x in hybrid().axes.items()}
    scores["low.0.conv1:out"] = np.full(8, 0.1)
    scores["attend.0.qkv:out[2]"] = np.full(4, 1e-9)
    found = allocate(unit_problem(model, scores, Limit("params", int(0.7 * model.price().params))), "isomorphic").counts
    assert found["low.0.conv1:out"] < found["low.1.conv1:out"]
    # Alone worthless beside all other axes, but the head widths are ranked among themselves: one share for both.
    both = found["attend.0.qkv:out[2]"] + found["attend.1.qkv:out[2]"]
    assert both >= 0.5 * 8


def test_a_knapsack_by_hand() -> None:
    parts = (
        Leaf("a", np.array([1, 4]), np.array([5.0, 0.0])),
        Group("block", (Leaf("b", np.array([2, 6]), np.array([3.0, 1.0])),), drop=(0, 4.0)),
    )
    answers = {5: ({"a": 1}, ("block",), 4.0), 6: ({"a": 1, "b": 0}, (), 3.0), 10: ({"a": 1, "b": 1}, (), 1.0)}
    for budget, (choice, dropped, damage) in answers.items():
        found = solve_tree(Group("net", parts), budget)
        assert (dict(found.choice), found.dropped, found.damage) == (choice, dropped, damage)
    assert solve_tree(Group("net", parts), 10).frontier.cost.tolist() == [1, 3, 4, 6, 10]
    with pytest.raises(BudgetError, match=r"Budget ≤ 0 .* least reachable is 1, of which 1 lie in 'a'"):
        solve_tree(Group("net", parts), 0)


def test_without_measured_damage_it_is_the_score_of_what_goes() -> None:
    given = problem()
    for axis, scores in given.scores.items():
        np.testing.assert_allclose(given.curve(axis)[[0, 5, len(scores)]], [scores.sum(), scores[5:].sum(), 0])
    counts = {FIRST: 10, SECOND: 12}
    assert given.predicted(counts) == pytest.approx(given.scores[FIRST][10:].sum())


@pytest.mark.parametrize("allocator", ["lagrangian", "knapsack", "viterbi"])
def test_damage_decides_where_units_go(allocator: str) -> None:
    damage = {FIRST: np.linspace(100, 0, 17), SECOND: np.linspace(1, 0, 13)}
    free = dataclasses.replace(problem(170, damage=damage), least_of_even=0.0)
    found = allocate(free, allocator)
    assert found.counts[FIRST] == 16
    assert found.damage < allocate(free, "uniform").damage
    guarded = allocate(problem(170, damage=damage), allocator)
    assert guarded.counts[SECOND] >= round(0.5 * allocate(free, "uniform").counts[SECOND])


def test_an_allocation_says_what_it_costs() -> None:
    given = problem(damage={FIRST: np.linspace(4, 0, 17), SECOND: np.linspace(3, 0, 13)})

    def loss(counts: Mapping[str, int]) -> float:
        return 0.25 + 1.5 * given.predicted(counts)

    found = allocate(given, "knapsack", points=5, loss=loss)
    assert found.allocator == "knapsack"
    assert found.price == cost().price(found.counts)
    assert found.ratio == pytest.approx(1.5)
    assert re.match(
        r"knapsack: \d+ params, \d+ MACs, \d+ bytes; predicted damage .*, R = 1\.50\n  0:out +\d+", str(found)
    )
    assert len(found.frontier) >= 4
    assert found.frontier[-1].amount <= 355
    assert allocate(given).ratio is None


@pytest.mark.parametrize("allocator", ALLOCATORS.names())
def test_scores_without_a_message_still_give_a_plan(allocator: str) -> None:
    for value in (0.0, 1.0):
        flat = {a: np.full(x.size, value) for a, x in cost().coupling.axes.items()}
        found = allocate(unit_problem(cost(), flat, Limit("params", 170)), allocator)
        assert 140 < found.price.params <= 170
    one = unit_problem(cost(), {FIRST: np.ones(16)}, Limit("params", 300), base={SECOND: np.arange(12) < 7})
    found = allocate(one, allocator)
    assert found.price == cost().price({FIRST: found.counts[FIRST], SECOND: 7})
    assert found.counts[FIRST] == 16
    assert allocate(unit_problem(cost(), {}, Limit("params", 355)), allocator).counts == {}


def test_widths_that_round_stay_whole_where_nothing_fits() -> None:
    assert Bound(round_to=8).counts("a", 20).tolist() == [8, 16, 20]
    assert Bound(round_to=32).counts("a", 20).tolist() == [20]
    assert Bound(floor=0.07).counts("a", 100).tolist()[0] == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": 1.5}, "floor is 1.5"),
        ({"ceiling": -1}, "ceiling is -1"),
        ({"forced": True}, "forced is True"),
        ({"round_to": 0}, "round_to is 0"),
        ({"floor": None}, "floor is None"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Bound(**fields)  # type: ignore[arg-type]


def test_problems_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match=r"'0:out' of 16 units may keep no number of them: at least 9, at most 10"):
        problem(bounds={FIRST: Bound(floor=9, ceiling=10, round_to=4)}).price({})
    with pytest.raises(OptionError, match="forced to 17 of 16 units"):
        problem(bounds={FIRST: Bound(forced=17)})
    with pytest.raises(SelectorError, match=r"No removable axis '0:outs'. Did you mean '0:out'\?"):
        problem(bounds={"0:outs": Bound(floor=2)})
    with pytest.raises(OptionError, match=r"damage of axis '0:out' has shape \(3,\); needed: 17 finite"):
        problem(damage={FIRST: np.zeros(3)})
    scores = {SECOND: np.ones(12)}
    with pytest.raises(OptionError, match="'0:out' is frozen, but keeps fewer than its 16 units"):
        unit_problem(cost(), scores, Limit("params", 300), bounds={FIRST: Bound(forced=4)})
    with pytest.raises(
        BudgetError, match=r"loosen the limits of '0:out': it must keep 16 of 16 units, which holds 120"
    ):
        problem(100, bounds={FIRST: Bound(frozen=True)})


def test_the_search_lowers_the_true_loss_within_the_budget() -> None:
    given = problem()
    target = {FIRST: 6, SECOND: 12}
    asked: list[dict[str, int]] = []

    def loss(counts: Mapping[str, int]) -> float:
        asked.append(dict(counts))
        assert given.fits(counts) or counts == {FIRST: 16, SECOND: 12}
        return sum((counts[a] - n) ** 2 for a, n in target.items()) / 10

    begin = allocate(given, "uniform")
    found = refine(given, begin, loss, Search(evaluations=60, seed=3))
    assert loss(found.counts) < loss(begin.counts)
    assert given.fits(found.counts)
    assert len({tuple(c.items()) for c in asked}) <= 60
    assert found.allocator == "uniform+evolution"
    assert found.true_damage == pytest.approx(loss(found.counts) - loss({FIRST: 16, SECOND: 12}))
    assert refine(given, begin, loss, Search(evaluations=60, seed=3)).counts == found.counts


def test_the_search_never_makes_it_worse() -> None:
    given = problem()
    begin = allocate(given, "knapsack")
    best = begin.counts

    def loss(counts: Mapping[str, int]) -> float:
        return float(sum(abs(counts[a] - best[a]) for a in best))

    assert refine(given, begin, loss, Search(evaluations=30)).counts == best
    with pytest.raises(OptionError, match="evaluations is 1; allowed: at least 3"):
        Search(evaluations=1)


@pytest.mark.parametrize("allocator", ALLOCATORS.names())
def test_every_allocator_has_a_door_in_prune(allocator: str) -> None:
    result = prunus.prune(mlp(), INPUTS, budget={"params": 0.5, "macs": 0.45}, allocator=allocator)
    assert result.check.ok
    assert result.after.params <= 0.5 * result.before.params
    assert result.after.macs_forward <= 0.45 * result.before.macs_forward
    assert result.plan.settings["allocator"] == allocator


def test_weights_know_their_allocators_in_prune() -> None:
    kept = {}
    for allocator in (None, "global", "uniform", "erk"):
        plan = prunus.plan(mlp(), INPUTS, budget={"params": 0.3}, levels=("weight",), allocator=allocator)
        kept[allocator] = {name: int(mask.sum()) for name, mask in plan.masks.items()}
    assert kept[None] == kept["global"]
    assert len({sum(counts.values()) for counts in kept.values()}) == 1
    assert kept["erk"] == erk_counts({"0.weight": (16, 6), "2.weight": (12, 16), "4.weight": (3, 12)}, 75)
    assert kept["uniform"]["2.weight"] in (44, 45)
