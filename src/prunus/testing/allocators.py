"""The contract of allocators: a whole number within its bounds for every axis, every limit met, the budget used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.budget import ALLOCATORS, Bound, Limit, UnitProblem, allocate, unit_problem
from prunus.budget.allocator import Allocator
from prunus.cost.price import CostModel, cost_model
from prunus.foundation.arguments import door
from prunus.foundation.registry import title_of
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.testing.cases import example_analysis
from prunus.testing.suite import Suite, check_member, suite_for

FIRST = "0:out"
SHARES = (0.3, 0.5, 0.75, 0.95)
USED = 0.8
"""The least part of a budget that is used; whole units seldom fill all of it."""


@functools.cache
def _chain() -> CostModel:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    return cost_model(couple(capture(model, torch.zeros(2, 6))))


@functools.cache
def _network() -> CostModel:
    return example_analysis().cost


def _scores(cost: CostModel, value: float | None = None) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        name: draw.random(axis.size) + 0.01 if value is None else np.full(axis.size, value)
        for name, axis in cost.coupling.axes.items()
    }


def _limit(cost: CostModel, metric: str, share: float) -> Limit:
    return Limit(metric, int(share * Limit(metric, 0).of(cost.price())))


class AllocatorSuite(Suite):
    """The promises of an allocator."""

    role = "allocator"
    case: str | Allocator

    def test_every_axis_has_a_whole_number(self) -> None:
        """The result maps every free axis, and no other, to an int; an empty problem gives an empty result."""
        for where, problem in self._problems():
            self._counts(where, problem)
        empty = unit_problem(_chain(), {}, _limit(_chain(), "params", 1.0))
        counts = self._called("no axis is up for choice", empty)
        self.expect(counts == {}, "with no axis up for choice it answers something", counts, "{}", "Return a dict.")

    def test_counts_lie_between_least_and_most(self) -> None:
        """`UnitProblem.least` ≤ count ≤ `UnitProblem.most`, floors included."""
        floored = unit_problem(_chain(), _scores(_chain()), _limit(_chain(), "params", 0.5), floor=5)
        for where, problem in [*self._problems(), ("every axis keeps at least 5 units", floored)]:
            for axis, count in self._counts(where, problem).items():
                least, most = problem.least[axis], problem.most[axis]
                self.expect(
                    least <= count <= most,
                    f"axis {axis!r} keeps a number out of its range ({where})",
                    count,
                    f"{least} to {most}",
                    "Begin at problem.least and end at problem.most.",
                )

    def test_every_limit_holds(self) -> None:
        """The price of the kept units meets every limit, also two limits at once."""
        for where, problem in self._problems():
            counts = self._counts(where, problem)
            price = problem.price(counts)
            for limit in problem.limits:
                self.expect(
                    limit.holds(price),
                    f"the budget is broken ({where})",
                    f"{limit.metric} {limit.of(price):,}",
                    f"{limit.value:,}",
                    "Ask problem.fits(counts) before you answer.",
                )

    def test_the_budget_is_used(self) -> None:
        """At least `USED` of the budget is spent, whatever the scores."""
        for value in (None, 0.0, 1.0):
            for share in SHARES:
                limit = _limit(_chain(), "params", share)
                problem = unit_problem(_chain(), _scores(_chain(), value), limit)
                where = f"params ≤ {limit.value}, scores {'drawn' if value is None else value}"
                spent = limit.of(problem.price(self._counts(where, problem)))
                self.expect(
                    spent >= USED * limit.value,
                    f"the budget is not used ({where})",
                    f"{spent:,}",
                    f"{int(USED * limit.value):,} to {limit.value:,}",
                    "Go on while a unit more fits.",
                )

    def test_a_budget_for_everything_keeps_everything(self) -> None:
        """No unit is removed where the whole network fits."""
        for cost in (_chain(), _network()):
            problem = unit_problem(cost, _scores(cost), _limit(cost, "macs", 1.0))
            counts = self._counts(f"all of {len(problem.scores)} axes fits", problem)
            self.expect(
                counts == problem.most,
                "it removes units where everything fits",
                {a: n for a, n in counts.items() if n != problem.most[a]},
                "every axis whole",
                "Begin with all units.",
            )

    def test_bounds_hold(self) -> None:
        """Multiples, floors, ceilings, frozen and forced widths hold, and the budget with them."""
        cases: list[tuple[Bound, set[int]]] = [
            (Bound(round_to=4), {4, 8, 12, 16}),
            (Bound(floor=9), set(range(9, 17))),
            (Bound(ceiling=0.25), {1, 2, 3, 4}),
            (Bound(frozen=True), {16}),
            (Bound(forced=5), {5}),
            (Bound(forced=0.5), {8}),
        ]
        limit = _limit(_chain(), "params", 0.62)
        for bound, allowed in cases:
            problem = unit_problem(_chain(), _scores(_chain()), limit, bounds={FIRST: bound})
            allocation = self.attempt(f"it fails under {bound}", lambda given=problem: allocate(given, self._member()))  # type: ignore[misc]
            self.expect(
                allocation.counts[FIRST] in allowed,
                f"a bound is broken ({bound})",
                allocation.counts[FIRST],
                f"{allowed}",
                "Choose from problem.choices(axis), or move with problem.snap and problem.above.",
            )

    def test_the_same_again(self) -> None:
        """The same problem has the same result."""
        for (where, one), (_, other) in zip(self._problems(), self._problems(), strict=True):
            first, second = self._counts(where, one), self._counts(where, other, again=True)
            self.expect(
                first == second,
                f"the same problem has another answer ({where})",
                second,
                f"{first}",
                "Draw from a generator of your own with a fixed seed, and keep no state between calls.",
            )

    def test_the_problem_stays(self) -> None:
        """Scores, floors and limits are unchanged."""
        problem, before = (self._problems()[0][1] for _ in range(2))
        self._counts("once", problem, again=True)
        same = all(np.array_equal(s, before.scores[a]) for a, s in problem.scores.items())
        same = same and problem.scores.keys() == before.scores.keys()
        same = same and dict(problem.floor) == dict(before.floor) and dict(problem.fixed) == dict(before.fixed)
        self.expect(same, "it changes the problem", "other scores or floors", "no change", "Work on copies.")

    def _problems(self) -> list[tuple[str, UnitProblem]]:
        problems = []
        for cost in (_chain(), _network()):
            scores = _scores(cost)
            shares = SHARES if cost is _chain() else SHARES[1:2]
            for limits in (
                *((_limit(cost, metric, share),) for metric in ("params", "macs") for share in shares),
                (_limit(cost, "params", 0.5), _limit(cost, "macs", 0.45)),
            ):
                where = " and ".join(f"{limit.metric} ≤ {limit.value:,}" for limit in limits)
                problems.append((where, unit_problem(cost, scores, limits)))
        return problems

    def _member(self) -> Allocator:
        return ALLOCATORS.get(self.case) if isinstance(self.case, str) else self.case

    def _called(self, where: str, problem: UnitProblem) -> Any:
        return self.attempt(f"it fails where {where}", lambda: self._member()(problem))

    def _counts(self, where: str, problem: UnitProblem, again: bool = False) -> dict[str, int]:
        """Return the checked result; for a known problem the earlier one, unless ``again``."""
        counts = self._called(where, problem) if again else self.once(where, lambda: self._called(where, problem))
        self.expect(
            isinstance(counts, Mapping) and counts.keys() == problem.scores.keys(),
            f"the answer names other axes than are up for choice ({where})",
            sorted(counts) if isinstance(counts, Mapping) else type(counts).__name__,
            f"{sorted(problem.scores)}",
            "Answer for every axis of problem.scores.",
        )
        for axis, count in counts.items():
            whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
            self.expect(whole, f"axis {axis!r} keeps no whole number ({where})", repr(count), "an int", "Round down.")
        return {axis: int(count) for axis, count in counts.items()}


@door()
def allocator_suite(allocator: str | Allocator) -> Any:
    """Return the contract suite of an allocator, for pytest to collect.

    Args:
        allocator: its name, or the function itself.

    Example:
        ``TestMine = prunus.testing.allocator_suite("my-allocator")``
    """
    check_member("allocator", allocator)
    return suite_for(AllocatorSuite, title_of(allocator), allocator)
