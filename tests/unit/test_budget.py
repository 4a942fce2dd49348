"""Budgets: how they are written, how they are divided, and what is said when they are out of reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunus
from prunus.budget import ALLOCATORS, Limit, UnitProblem, fit_units, parse_budget, top_up
from prunus.cost.price import CostModel, cost_model
from prunus.errors import BudgetError, OptionError
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.plans import Cost

BEFORE = Cost(params=1000, macs_forward=20_000, macs_backward=40_000, param_bytes=4000)
INPUTS = torch.randn(2, 6)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def problem_cost() -> CostModel:
    return cost_model(couple(capture(mlp(), INPUTS)))


def problem(limit: Limit, scores: dict[str, np.ndarray] | None = None) -> UnitProblem:
    cost = problem_cost()
    given = scores or {a: np.sort(np.random.default_rng(0).random(x.size))[::-1] for a, x in cost.coupling.axes.items()}
    return UnitProblem(cost, given, (limit,), dict.fromkeys(given, 1), {})


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"params": 0.3}, [("params", 300)]),
        ({"macs": 0.5}, [("macs", 10_000)]),
        ({"bytes": 0.2501}, [("bytes", 1000)]),
        ({"params": 250}, [("params", 250)]),
        ({"params": 250.0}, [("params", 250)]),
        ({"params": 1}, [("params", 1)]),
        ({"params": 1.0}, [("params", 1000)]),
        ({"params": "250"}, [("params", 250)]),
        ({"bytes": "2MB"}, [("bytes", 2_000_000)]),
        ({"bytes": " 1.5 KiB "}, [("bytes", 1536)]),
        ({"bytes": ".5kb"}, [("bytes", 500)]),
        ({"params": np.int64(70), "macs": np.float32(0.25)}, [("params", 70), ("macs", 5000)]),
    ],
)
def test_budgets_are_fractions_or_amounts(budget: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert parse_budget(budget, BEFORE) == tuple(Limit(*pair) for pair in expected)


@pytest.mark.parametrize(
    "value",
    [0, -1, 0.0, 1.5, float("nan"), float("inf"), True, None, "half", "50%", "1..2", ".", "", "2XB", "2MB", [1]],
)
def test_amounts_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"budget params is .*allowed: a kept fraction in \(0, 1\] or a whole number"):
        parse_budget({"params": value}, BEFORE)


def test_unknown_metrics_name_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"'parms'. Did you mean 'params'\? Allowed: params, macs, bytes"):
        parse_budget({"parms": 0.5}, BEFORE)
    for wrong in ({}, 0.5, "params"):
        with pytest.raises(OptionError, match="give a dict such as"):
            parse_budget(wrong, BEFORE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "budget", [{"params": 0.4}, {"params": 150}, {"macs": 0.4}, {"bytes": "0.5kB"}, {"params": 0.9, "macs": 0.3}]
)
def test_prune_meets_every_limit_and_wastes_little(budget: dict[str, Any]) -> None:
    result = prunus.prune(mlp(), INPUTS, budget=budget)
    limits = parse_budget(budget, result.before)
    assert all(limit.holds(result.after) for limit in limits)
    assert max(limit.of(result.after) / limit.value for limit in limits) > 0.9


def test_an_unreachable_budget_says_what_is_least_and_who_stands_in_the_way() -> None:
    least = r"the least reachable is 15 of 355, of which 6 lie in '0\.weight', which cannot shrink further"
    with pytest.raises(BudgetError, match=rf"^Budget params ≤ 3 cannot be met: {least}. Raise the budget\.$"):
        prunus.prune(mlp(), INPUTS, budget={"params": 3})
    with pytest.raises(BudgetError, match=r"Budget bytes ≤ 14 .* is 60 of 1,420, of which 24 lie in '0\.weight'"):
        prunus.prune(mlp(), INPUTS, budget={"bytes": 0.01})
    with pytest.raises(BudgetError, match=r"Budget macs ≤ 3 .* is 10 of 324, of which 6 lie in '0'"):
        prunus.prune(mlp(), INPUTS[:1], budget={"macs": 0.01, "params": 0.9})


def test_the_least_reachable_is_reachable() -> None:
    assert prunus.prune(mlp(), INPUTS, budget={"params": 15}).after.params == 15
    with pytest.raises(BudgetError, match="least reachable is 15"):
        prunus.prune(mlp(), INPUTS, budget={"params": 14})


def test_masks_out_of_reach_say_so() -> None:
    with pytest.raises(BudgetError, match="31 of 355 cannot be masked, and each of 3 weights keeps one"):
        prunus.prune(mlp(), INPUTS, budget={"params": 33}, levels=("weight",))
    assert prunus.prune(mlp(), INPUTS, budget={"params": 34}, levels=("weight",)).check.ok


@pytest.mark.parametrize("levels", [("unit",), ("weight",)])
@pytest.mark.parametrize("value", [1.0, 355, 10**9])
def test_a_budget_that_is_met_already_is_an_error(value: float, levels: tuple[str, ...]) -> None:
    with pytest.raises(BudgetError, match=r"meets the budget as it is: params ≤ [\d,]+ \(it has 355\); nothing would"):
        prunus.prune(mlp(), INPUTS, budget={"params": value}, levels=levels)


def test_uniform_gives_every_axis_the_same_share() -> None:
    counts = ALLOCATORS.get("uniform")(problem(Limit("params", 170)))
    shares = [n / len(s) for n, s in zip(counts.values(), problem(Limit("params", 170)).scores.values(), strict=True)]
    assert max(shares) - min(shares) < 1 / 12 + 1 / 16


def test_global_ranking_takes_the_weakest_of_all_axes() -> None:
    scores = {
        a: np.sort(np.random.default_rng(1).random(x.size))[::-1] for a, x in problem_cost().coupling.axes.items()
    }
    weak = next(iter(scores))
    scores[weak] = np.concatenate([np.ones(4), np.full(12, 1e-6)])
    keep = fit_units(problem_cost(), scores, Limit("params", 150), allocator="global")
    assert keep[weak].sum() <= 5
    assert all(mask.mean() > 0.9 for axis, mask in keep.items() if axis != weak)


@pytest.mark.parametrize("allocator", ["uniform", "global"])
def test_ties_and_zeros_do_not_waste_the_budget(allocator: str) -> None:
    for value in (0.0, 1.0):
        scores = {a: np.full(x.size, value) for a, x in problem_cost().coupling.axes.items()}
        keep = fit_units(problem_cost(), scores, Limit("params", 170), allocator=allocator)
        assert 150 < problem_cost().price(keep).params <= 170
        assert all(not np.diff(mask.astype(int)).clip(0).any() for mask in keep.values()), "lower indices stay"


@pytest.mark.parametrize("allocator", ["uniform", "global"])
@pytest.mark.parametrize("value", range(20, 355, 30))
def test_no_unit_that_fits_is_left_out(allocator: str, value: int) -> None:
    given = problem(Limit("params", value))
    counts = ALLOCATORS.get(allocator)(given)
    assert given.fits(counts)
    for axis, count in counts.items():
        assert count == len(given.scores[axis]) or not given.fits(counts | {axis: count + 1}), axis


def test_units_that_are_gone_stay_gone() -> None:
    cost = problem_cost()
    first, second = cost.coupling.axes
    scores = {a: np.arange(x.size, dtype=float) for a, x in cost.coupling.axes.items()}
    base = {first: np.arange(16) < 10}
    keep = fit_units(cost, scores, Limit("params", 150), base=base)
    assert not keep[first][10:].any()
    assert cost.price(keep).params <= 150
    held = fit_units(cost, {second: scores[second]}, Limit("params", 200), base=base)
    assert np.array_equal(held[first], base[first])


def test_floors_hold() -> None:
    cost = problem_cost()
    scores = {a: np.arange(x.size, dtype=float) for a, x in cost.coupling.axes.items()}
    for allocator in ALLOCATORS.names():
        keep = fit_units(cost, scores, Limit("params", 120), allocator=allocator, floor=5)
        assert all(mask.sum() >= 5 for mask in keep.values())
    with pytest.raises(BudgetError, match="least reachable"):
        fit_units(cost, scores, Limit("params", 50), floor=5)


def test_unknown_allocators_are_named() -> None:
    scores = {a: np.ones(x.size) for a, x in problem_cost().coupling.axes.items()}
    with pytest.raises(OptionError, match=r"Unknown allocator 'unifrom'. Did you mean 'uniform'\?"):
        fit_units(problem_cost(), scores, Limit("params", 170), allocator="unifrom")


def test_topping_up_never_breaks_the_budget() -> None:
    given = problem(Limit("params", 200))
    start = dict.fromkeys(given.scores, 1)
    for order in (list(given.scores), list(given.scores)[::-1]):
        full = top_up(given, start, order)
        assert given.fits(full)
        assert all(full[a] >= start[a] for a in start)
    assert start == dict.fromkeys(given.scores, 1)
