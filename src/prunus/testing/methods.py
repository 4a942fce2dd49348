"""The contract of methods: the budget met from just below, the cut proved, plans reproducible, held axes whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import torch
from torch import nn

from prunus.analysis import Analysis
from prunus.budget import Limit
from prunus.cost.price import cost_model
from prunus.data.batches import call, tensors_in
from prunus.errors import PrunusError
from prunus.foundation.arguments import door
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.methods import METHODS, Level, Method
from prunus.outcome import cut_proved
from prunus.plans import UNPRICED, Cost, Plan
from prunus.surgery.proving.proof_run import relative_error
from prunus.surgery.proving.verify import Check
from prunus.testing.cases import example_analysis, first_change, state_of
from prunus.testing.suite import Suite, check_member, suite_for

KEPT = (0.5, 0.3)
HELD_KEPT = 0.7
USED = 0.95
"""The least part of a budget of parameters that a plan uses."""
MACS_USED = 0.85
PROVED, CHANGED = 1e-8, 1e-3
"""Largest error of the cut network against the masked original, and the least change of the outputs by the plan."""


class Analysed(Protocol):
    """A function that makes the analysed network, with nothing measured; ``held`` names axes that may not be cut."""

    def __call__(self, *, held: frozenset[str] = frozenset()) -> Analysis:
        """Return the analysis."""
        ...


@dataclass(frozen=True, slots=True)
class MethodCase:
    """A method, its analysis, and the share by which it may exceed a budget."""

    method: str | Method
    analysis: Analysed
    over: float
    kept: tuple[float, ...]

    @property
    def member(self) -> Method:
        """The method itself."""
        return METHODS.get(self.method) if isinstance(self.method, str) else self.method


def plan_with(method: Method, analysis: Analysis, kept: float, metric: str = "params") -> Plan:
    """Ask a method for a plan that keeps a share of a metric: the only place in the suite that knows how."""
    ready = analysis if metric == analysis.metric else analysis.in_metric(metric)
    return method.plan(ready, ready.limits(kept))


def _cut_and_checked(analysis: Analysis, plan: Plan) -> tuple[nn.Module, Check]:
    """Return the cut network and its check; with bridges the change is that of the network without them."""
    ready = analysis.for_plan(plan)
    result = cut_proved(ready.model, ready.coupling, plan, ready.example_inputs)
    assert result.check is not None
    if not plan.bridges:
        return result.model, result.check
    with torch.no_grad():
        before, after = (
            list(tensors_in(call(model, analysis.example_inputs))) for model in (analysis.model, result.model)
        )
    return result.model, replace(result.check, change=relative_error(before, after))


class MethodSuite(Suite):
    """The promises of a method."""

    role = "method"
    case: MethodCase

    def test_its_record_is_sound(self) -> None:
        """The record has the enrolled name, the level is one of the levels, the description is one line."""
        member = self.case.member
        self.expect_record(member, self.case.method, "Say in one line what goes.")
        levels = get_args(Level)
        self.expect(member.level in levels, "its level is unknown", repr(member.level), ", ".join(levels), "Name one.")

    def test_the_budget_holds(self) -> None:
        """The kept parameters, without masked weights, are at most the kept share."""
        for kept in self.case.kept:
            spent, allowed = self._spent(kept), kept * self._analysis().cost.price().params
            self.expect(
                spent <= allowed * (1 + self.case.over),
                f"the budget of {kept:.0%} of the parameters is broken",
                f"{spent:,}",
                f"{int(allowed):,}",
                "Fit the choice with prunus.budget.fit_units, or remove more.",
            )

    def test_the_budget_is_used(self) -> None:
        """The plan keeps at least `USED` of the budget."""
        for kept in self.case.kept:
            spent, allowed = self._spent(kept), kept * self._analysis().cost.price().params
            self.expect(
                spent >= USED * allowed,
                f"the budget of {kept:.0%} of the parameters is not used",
                f"{spent:,}",
                f"{int(USED * allowed):,} to {int(allowed):,}",
                "Go on until no more fits, or fill up with units.",
            )

    def test_a_budget_of_macs_holds_and_is_used(self) -> None:
        """A budget of half the forward MACs is met from just below, without masks."""
        plan = self.attempt(
            "it fails under a budget of MACs",
            lambda: plan_with(self.case.member, self._analysis(), 0.5, "macs"),
            "Take the metric and its limit from the analysis.",
        )
        limit = self._analysis().cost.price().macs_forward // 2
        spent = self._after(plan).macs_forward
        self.expect(
            MACS_USED * limit <= spent <= limit,
            "the budget of half the MACs is missed",
            f"{spent:,}",
            f"{int(MACS_USED * limit):,} to {limit:,}",
            "Ask the limit of its metric: limit.of(cost).",
        )
        self.expect(
            not plan.masks,
            "it masks weights, which saves no MACs",
            sorted(plan.masks)[:1],
            "no masks",
            "Remove units or branches.",
        )

    def test_less_budget_keeps_less(self) -> None:
        """A smaller share keeps fewer parameters."""
        shares = sorted(self.case.kept, reverse=True)
        for more, less in itertools.pairwise(shares):
            most, least = self._spent(more), self._spent(less)
            self.expect(
                least < most,
                f"{less:.0%} of the parameters keeps no fewer than {more:.0%}",
                f"{least:,}",
                f"fewer than {most:,}",
                "Let the kept share decide how much goes.",
            )

    def test_the_cut_is_proved(self) -> None:
        """The small network computes the same as the masked original, and the plan's price is its price."""
        analysis = self._analysis()
        for kept in self.case.kept:
            plan = self.plan(kept)
            where = f"at {kept:.0%} of the parameters"

            small, check = self.attempt(
                f"its plan {where} cannot be applied",
                lambda plan=plan: _cut_and_checked(analysis, plan),  # type: ignore[misc]
                "Build plans with prunus.analysis.score.make_plan.",
            )
            self.expect(
                check.error <= PROVED and check.change > CHANGED,
                f"the cut {where} proves nothing",
                f"an error of {check.error:.1e} where the outputs change by {check.change:.1e}",
                f"at most {PROVED:g} where they change by more than {CHANGED:g}",
                "Remove what matters to the outputs too.",
            )
            self.attempt(
                f"the network that is cut {where} does not run on another batch",
                lambda small=small: call(small, next(iter(analysis.selection.batches(3)))[0]),  # type: ignore[misc]
            )
            counted = cost_model(couple(capture(small, analysis.example_inputs))).price()
            self.expect(
                counted == self._after(plan),
                f"the price in its plan {where} is not that of the network that is cut",
                f"{self._after(plan)}",
                f"{counted}",
                "Build plans with prunus.analysis.score.make_plan.",
            )
            zeros = sum(int((p == 0).sum()) for p in small.parameters())
            self.expect(
                zeros >= plan.masked,
                f"masked weights {where} are not zero after the cut",
                f"{zeros:,} zeros",
                f"{plan.masked:,}",
                "Give masks in the shapes of the original.",
            )

    def test_its_plan_belongs_to_the_network(self) -> None:
        """``before`` is the price of the network, and the plan is not empty."""
        for kept in self.case.kept:
            plan = self.plan(kept)
            self.expect(
                plan.before == self._analysis().cost.price(),
                "before is not the price of the network",
                f"{plan.before}",
                f"{self._analysis().cost.price()}",
                "Build plans with prunus.analysis.score.make_plan.",
            )
            self.expect(
                not plan.is_empty, f"nothing goes at {kept:.0%}", "an empty plan", "a plan", "Remove something."
            )

    def test_plans_tell_why(self) -> None:
        """Every plan has decisions, each with a reason and a valid count of removed units."""
        for kept in self.case.kept:
            decisions = self.plan(kept).decisions
            self.expect(
                decisions,
                f"its plan at {kept:.0%} has no decisions",
                "none",
                "at least one",
                "Say what goes and why: Decision(node, level, removed, total, reason).",
            )
            for decision in decisions:
                self.expect(
                    decision.reason and 0 < decision.removed <= decision.total,
                    "a decision says nothing",
                    f"{decision}",
                    "a reason, and 0 < removed ≤ total",
                    "Leave out what stays whole.",
                )

    def test_the_same_again(self) -> None:
        """The same analysis with the same seed gives the same plan."""
        again, _ = self._again()
        self.expect(
            again == self.plan(self.case.kept[0]),
            "the same seed gives another plan",
            "a difference",
            "equal plans",
            "Draw from a generator seeded by analysis.seed, and keep no state between calls.",
        )

    def test_the_model_stays(self) -> None:
        """The model is unchanged: weights, gradients, modes, hooks and attributes are as before."""
        _, changed = self._again()
        self.expect(changed is None, "it changes the model", changed, "no change", "Work on a copy of the model.")

    def test_held_axes_stay(self) -> None:
        """Held axes keep all units, and their weights are not masked."""
        axes = self._analysis().coupling.axes
        held = frozenset(list(axes)[::3])
        kept = HELD_KEPT if self.case.member.only_kept is None else self.case.kept[0]
        plan = self._planned(self.case.analysis(held=held), kept)
        do = "Choose among analysis.free_axes() and the weights that lie on no held axis."
        cut_axes = sorted(held & plan.axes.keys())
        self.expect(not cut_axes, "it cuts an axis that is held", cut_axes[:1], "no held axis", do)
        touched = sorted({m.tensor for axis in held for m in axes[axis].members} & plan.masks.keys())
        self.expect(not touched, "it masks weights on an axis that is held", touched[:1], "none of them", do)

    def test_a_budget_out_of_reach_is_refused(self) -> None:
        """A share that no plan can meet is refused in one line (`PrunusError`)."""
        self.refused(
            "a share of 0.0001 % is not refused",
            lambda: plan_with(self.case.member, self._analysis(), 1e-6),
            PrunusError,
            "Raise BudgetError with the least that can be reached.",
        )

    def _analysis(self) -> Analysis:
        return self.once("analysis", self.case.analysis)

    def _again(self) -> tuple[Plan, str | None]:
        """Return a second plan of the first share on a new analysis, and the first part of the model it changed."""

        def make() -> tuple[Plan, str | None]:
            analysis = self.case.analysis()
            before = state_of(analysis.model)
            plan = self._planned(analysis, self.case.kept[0])
            return plan, first_change(before, state_of(analysis.model))

        return self.once("again", make)

    def _planned(self, analysis: Analysis, kept: float) -> Plan:
        what = f"it makes no plan that keeps {kept:.0%} of the parameters"
        plan = self.attempt(what, lambda: plan_with(self.case.member, analysis, kept))
        self.expect(isinstance(plan, Plan), what, type(plan).__name__, "a Plan", "Return make_plan(...).")
        return plan

    def plan(self, kept: float) -> Plan:
        """Return the plan of a kept share, made once for all checks."""
        return self.once(("plan", kept), lambda: self._planned(self._analysis(), kept))

    def _after(self, plan: Plan) -> Cost:
        if plan.after == UNPRICED:
            self.fail("its plan has no price", "no counts", "the price of what stays", "Build plans with make_plan.")
        return plan.after

    def _spent(self, kept: float) -> int:
        plan = self.plan(kept)
        return int(Limit("params", 0).of(self._after(plan))) - plan.masked


@door()
def method_suite(
    method: str | Method,
    *,
    over: float = 0.0,
    analysis: Callable[..., Analysis] = example_analysis,
) -> Any:
    """Return the contract suite of a method, for pytest to collect.

    Methods that are defined at some shares only are checked at those.

    Args:
        method: its name, or the `Method` itself.
        over: the share by which it may exceed a budget of parameters, for methods whose pattern fixes the kept share.
        analysis: makes the analysed network of the checks, with ``held=`` axes; by default `example_analysis`.

    Example:
        ``TestMine = prunus.testing.method_suite("my-method")``
    """
    check_member("method", method, Method)
    member = METHODS.get(method) if isinstance(method, str) else method
    kept = KEPT if member.only_kept is None else tuple(member.only_kept)
    skipped = [("test_a_budget_of_macs_holds_and_is_used", member.level == "weight" or member.only_kept is not None)]
    skipped += [("test_less_budget_keeps_less", len(kept) < 2)]
    skipped += [("test_a_budget_out_of_reach_is_refused", member.only_kept is not None)]
    leave_out = tuple(name for name, applies in skipped if applies)
    return suite_for(MethodSuite, member.name, MethodCase(method, analysis, over, kept), leave_out)
