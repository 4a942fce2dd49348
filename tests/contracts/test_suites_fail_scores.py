"""The shipped suites of criteria, schedules and allocators find every broken promise: one broken member for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from factories_suites import Broken, check_broken, check_covered
from prunus.budget import ALLOCATORS, UnitProblem
from prunus.criteria import CRITERIA, UNIT_CRITERIA, Evidence, UnitEvidence, UnitRule
from prunus.testing import allocator_suite, criterion_suite, schedule_suite, weight_criterion_suite
from prunus.testing.allocators import AllocatorSuite
from prunus.testing.criteria import CriterionSuite
from prunus.testing.schedules import ScheduleSuite
from prunus.testing.weight_criteria import WeightCriterionSuite

Scores = dict[str, Tensor]
counter = itertools.count()


def norms(evidence: UnitEvidence) -> Scores:
    return UNIT_CRITERIA.get("magnitude")(evidence)


def changed(function: Callable[[Tensor], Any]) -> UnitRule:
    return UnitRule(lambda evidence: {a: function(s) for a, s in norms(evidence).items()})


def greedy(evidence: UnitEvidence) -> Scores:
    scores = norms(evidence)
    next(iter(evidence.weights.values())).mul_(2)
    return scores


def greedy_with_statistics(evidence: UnitEvidence) -> Scores:
    scores = {a: s.clone() for a, s in evidence.more["contribution"].items()}
    evidence.more["contribution"][next(iter(scores))].zero_()
    return scores


def drawing(evidence: UnitEvidence) -> Scores:
    torch.rand(1)
    return norms(evidence)


CRITERIA_CASES: list[Broken] = [
    ("test_it_declares_what_it_reads", UnitRule(norms, needs=("colour",)), r"needs names .* got \['colour'\], allowed"),
    ("test_it_declares_what_it_reads", UnitRule(norms, scale="los"), "scale is unknown; got 'los', allowed: loss, en"),
    ("test_every_unit_has_a_score", UnitRule(lambda e: {}), r"name other axes than there are; got \[\]"),
    ("test_every_unit_has_a_score", UnitRule(lambda e: None), "got NoneType, allowed: a dict with"),
    ("test_every_unit_has_a_score", changed(lambda s: s[1:]), r"axis '.*' have another form; got \(\d+,\) torch.float"),
    ("test_every_unit_has_a_score", changed(lambda s: s.long()), r"got \(\d+,\) torch.int64, allowed: a float tensor"),
    ("test_every_unit_has_a_score", changed(lambda s: s / 0 * 0), r"NaN or infinite; got \d+ of \d+, allowed: finite"),
    ("test_every_unit_has_a_score", changed(lambda s: 1 // 0), "evidence; got OptionError: .* raised ZeroDiv"),
    ("test_every_unit_has_a_score", lambda group: [1.0], r"got OptionError: criterion function '<lambda>' returned sc"),
    ("test_scores_tell_units_apart", changed(torch.ones_like), "all units of every axis score the same; got no differ"),
    ("test_model_and_evidence_stay", UnitRule(greedy), "it changes the model; got values of 'stem.conv.weight', allow"),
    ("test_model_and_evidence_stay", UnitRule(greedy_with_statistics, ("contribution",)), r"it changes a statistic; g"),
    ("test_model_and_evidence_stay", UnitRule(drawing), "draws from torch's global generator; got another random stat"),
    ("test_the_same_again", changed(lambda s: s + torch.rand(len(s))), "gives other scores; got a difference on axis"),
    ("test_the_same_again", changed(lambda s: s + next(counter)), "gives other scores; got a difference on axis 'stem"),
    ("test_the_order_of_samples_changes_nothing", "taylor-batch", "in another order give other scores; got a relative"),
    ("test_the_order_of_units_changes_nothing", "random", "the units of axis '.*' in another order have other scores"),
    ("test_the_order_of_units_changes_nothing", changed(lambda s: torch.arange(len(s)) + 1.0), "have other scores; go"),
]


def weighed(function: Callable[[Tensor], Any]) -> Any:
    class Member:
        def __call__(self, name: str, weight: Tensor) -> Any:
            return function(weight)

    return Member()


class Enrolled:
    """A weight criterion that reads evidence: enrolled under a name for the time of its check."""

    def __init__(self, function: Callable[[Evidence], Any]) -> None:
        self.function = function


def spoiling(evidence: Evidence) -> Scores:
    next(iter(evidence.weights.values())).zero_()
    return {n: torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) for n, w in evidence.weights.items()}


def needing(evidence: Evidence) -> Scores:
    return {n: evidence.grad[n].abs() for n in evidence.weights}  # type: ignore[index]


def telling_much(evidence: Evidence) -> Scores:
    from prunus.errors import OptionError

    if evidence.grad is None:
        raise OptionError("I need\ngrad")
    return {n: g.abs() for n, g in evidence.grad.items()}


def drawing_weights(evidence: Evidence) -> Scores:
    torch.rand(1)
    return {n: w.abs().float() for n, w in evidence.weights.items()}


WEIGHT_CASES: list[Broken] = [
    ("test_every_weight_has_a_score", Enrolled(lambda e: {}), "name other weights; got .*, allowed: a dict with"),
    ("test_every_weight_has_a_score", Enrolled(lambda e: 1), "name other weights; got int, allowed: a dict with"),
    ("test_every_weight_has_a_score", Enrolled(lambda e: {n: w[0] for n, w in e.weights.items()}), "have another form"),
    ("test_every_weight_has_a_score", Enrolled(lambda e: {n: w / 0 for n, w in e.weights.items()}), "NaN or infinite"),
    ("test_every_weight_has_a_score", weighed(lambda w: w.mean()), "OptionError: criterion function 'Member' returned"),
    ("test_scores_tell_weights_apart", weighed(torch.ones_like), "all weights of every tensor score the same"),
    ("test_the_evidence_stays", Enrolled(spoiling), "it changes weights; got other values, allowed: no change"),
    ("test_the_evidence_stays", Enrolled(drawing_weights), "it draws from torch's global generator"),
    ("test_the_same_again", weighed(torch.rand_like), "gives other scores; got a difference in 'conv.weight'"),
    ("test_the_order_of_rows_changes_nothing", "random", "rows of a weight in another order have other scores; got a"),
    ("test_missing_statistics_are_named", Enrolled(needing), "without naming one; got TypeError: 'NoneType' object is"),
    ("test_missing_statistics_are_named", Enrolled(telling_much), r"got a message of several lines 'I need\\ngrad'"),
    ("test_half_precision_is_taken", Enrolled(lambda e: {n: w * w for n, w in e.weights.items()}), "float16 weights o"),
    ("test_half_precision_is_taken", Enrolled(lambda e: {n: w**8 for n, w in e.weights.items()}), "vanish or saturate"),
]

SCHEDULES: list[Broken] = [
    ("test_it_begins_whole", lambda s, k: k, "at progress 0 with the final fraction 0.01 is another; got 0.01, allowe"),
    ("test_it_ends_at_the_final_fraction", lambda s, k: 1 - (1 - k) * s / 2, "at progress 1 with .* is another; got 0"),
    ("test_it_stays_between_final_and_whole", lambda s, k: 1 - (1 - k) * 4 * s * s * (1.25 - s), "leaves its range; g"),
    ("test_it_never_rises", lambda s, k: k + (1 - k) * (0.5 + 0.5 * math.cos(9.42477796 * s)), "rises at progress 0.3"),
    (
        "test_a_smaller_final_fraction_never_keeps_more",
        lambda s, k: k + (1 - k) * (1 - s) ** (1 if k < 0.2 else 3),
        "at progress 0.01. the final fraction 0.1 keeps more than 0.37; got",
    ),
    ("test_it_has_no_memory", lambda s, k: 1 - (1 - k) * s + 1e-13 * (next(counter) % 7), "when asked in another orde"),
    ("test_it_begins_whole", lambda s, k: None, "at progress 0.0 it returns no number; got None, allowed: a finite fl"),
    ("test_it_begins_whole", lambda s, k: s / 0, "got ZeroDivisionError: float division by zero, allowed: no error"),
]


def divided(function: Callable[[UnitProblem, dict[str, int]], Any]) -> Any:
    return lambda problem: function(problem, ALLOCATORS.get("uniform")(problem))


def shuffled(problem: UnitProblem, counts: dict[str, int]) -> dict[str, int]:
    axis = next(iter(counts))
    return {**counts, axis: max(problem.least[axis], counts[axis] - next(counter) % 2)}


def sorting(problem: UnitProblem, counts: dict[str, int]) -> dict[str, int]:
    for scores in problem.scores.values():
        np.asarray(scores)[:] = 0
    return counts


def starving(problem: UnitProblem, counts: dict[str, int]) -> dict[str, int]:
    """Give everything to the second axis, whatever the first must keep."""
    if not problem.bounds:
        return counts
    first, second = counts
    most = max(n for n in range(1, 13) if problem.fits({first: 1, second: n}))
    return {first: 1, second: most}


ALLOCATOR_CASES: list[Broken] = [
    ("test_every_axis_has_a_whole_number", divided(lambda p, n: {a: float(x) for a, x in n.items()}), "keeps no whole"),
    ("test_every_axis_has_a_whole_number", divided(lambda p, n: dict(list(n.items())[1:])), r"names other axes .* got"),
    ("test_every_axis_has_a_whole_number", divided(lambda p, n: None), r"got NoneType, allowed: \['0:out', '2:out'\]"),
    ("test_every_axis_has_a_whole_number", divided(lambda p, n: n or {"x": 1}), r"answers something; got \{'x': 1\},"),
    ("test_counts_lie_between_least_and_most", divided(lambda p, n: dict.fromkeys(n, 0)), "out of its range .* got 0,"),
    (
        "test_counts_lie_between_least_and_most",
        divided(lambda p, n: {a: len(s) + 1 for a, s in p.scores.items()}),
        "keeps a number out of its range .*; got 17, allowed: 1 to 16",
    ),
    ("test_every_limit_holds", divided(lambda p, n: p.most), r"the budget is broken \(params ≤ \d+\); got params 355"),
    ("test_the_budget_is_used", divided(lambda p, n: p.least), r"is not used .*; got 15, allowed: 84 to 106\. Go on"),
    (
        "test_a_budget_for_everything_keeps_everything",
        divided(lambda p, n: {a: max(1, x - 1) for a, x in n.items()}),
        "removes units where everything fits; got {'0:out': 15, '2:out': 11}, allowed: every axis whole",
    ),
    ("test_bounds_hold", divided(starving), r"it fails under Bound\(.*floor=9.*BudgetError.* params at \d+, .* 220"),
    ("test_bounds_hold", divided(lambda p, n: 1 // 0 if p.bounds else n), r"it fails under Bound.*ZeroDivisionError"),
    ("test_the_same_again", divided(shuffled), r"the same problem has another answer \(params ≤ \d+\); got"),
    ("test_the_problem_stays", divided(sorting), "it changes the problem; got other scores or floors, allowed: no cha"),
]


@pytest.mark.parametrize(("check", "member", "words"), CRITERIA_CASES)
def test_broken_criteria(check: str, member: Any, words: str) -> None:
    check_broken(criterion_suite(member), check, words)


@pytest.mark.parametrize(("check", "member", "words"), WEIGHT_CASES)
def test_broken_weight_criteria(check: str, member: Any, words: str) -> None:
    if isinstance(member, Enrolled):
        with CRITERIA.lent("broken", member.function):
            check_broken(weight_criterion_suite("broken"), check, words)
    else:
        check_broken(weight_criterion_suite(member), check, words)


@pytest.mark.parametrize(("check", "member", "words"), SCHEDULES)
def test_broken_schedules(check: str, member: Any, words: str) -> None:
    check_broken(schedule_suite(member), check, words)


@pytest.mark.parametrize(("check", "member", "words"), ALLOCATOR_CASES)
def test_broken_allocators(check: str, member: Any, words: str) -> None:
    check_broken(allocator_suite(member), check, words)


def test_every_check_can_fail() -> None:
    check_covered(CriterionSuite, CRITERIA_CASES)
    check_covered(WeightCriterionSuite, WEIGHT_CASES)
    check_covered(ScheduleSuite, SCHEDULES)
    check_covered(AllocatorSuite, ALLOCATOR_CASES)
