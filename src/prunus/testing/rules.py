"""The contract of coupling rules: units of a network with the op can be removed, and the cut one computes the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.analysis.score import make_plan
from prunus.cost.price import cost_model
from prunus.foundation.arguments import door
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.graph.ir import INPUT, TENSOR, Ref, refs_in
from prunus.graph.rules import RULES, Rule, load_rules
from prunus.graph.rules.context import base_name
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import compare_models
from prunus.testing.cases import first_change, state_of
from prunus.testing.suite import Suite, suite_for

DRAWS = 3


@dataclass(frozen=True, slots=True)
class RuleCase:
    """An op, a network that uses it, and the rule if it is not enrolled."""

    op: str
    network: Callable[[], nn.Module]
    inputs: Any
    rule: Rule | None

    @contextlib.contextmanager
    def enrolled(self) -> Iterator[None]:
        """Enrol the rule, if one is given, for the time of a block."""
        load_rules()
        with contextlib.nullcontext() if self.rule is None else RULES.lent(self.op, self.rule):
            yield


class RuleSuite(Suite):
    """The promises of a coupling rule, on one network with its op between layers with weights."""

    role = "rule"
    case: RuleCase

    def test_the_op_is_in_the_program(self) -> None:
        """The example network runs the op under the name of the rule."""
        ops = sorted({base_name(n.op) for n in self._coupling().graph.nodes if n.op not in (INPUT, TENSOR)})
        self.expect(
            self.case.op in ops,
            "the example network does not run this op",
            ", ".join(ops),
            self.case.op,
            "Enrol the rule as 'namespace.name', or as 'name' for an op of ATen; call the op in forward.",
        )

    def test_it_is_found(self) -> None:
        """The op has a rule."""
        self.expect(
            self.case.op not in self._coupling().unknown,
            "no rule is found for the op",
            "none",
            "one",
            "Let the entry point of the group prunus.rules have the name of the op.",
        )

    def test_it_meets_no_conflict(self) -> None:
        """The dims that the rule returns have the sizes of the results, and its moves do not contradict each other."""
        broken = sorted({f.reason for f in self._coupling().frozen if f.reason.startswith("conflict in ")})
        self.expect(
            not broken,
            "what it returns does not fit the op",
            ", ".join(broken),
            "dims of the sizes of the results",
            "Return one sequence of dims a result; see the moves of prunus.graph.rules.Flow.",
        )

    def test_units_can_go(self) -> None:
        """An axis that reaches the op is removable."""
        coupling = self._coupling()
        near = {name for name in coupling.axes if self._reaches(coupling, name)}
        reasons = sorted({f.reason for f in coupling.frozen})
        self.expect(
            near,
            "no axis that reaches the op is removable",
            f"frozen: {', '.join(reasons)}",
            "one axis or more",
            "Freeze a dim only where its positions cannot go; put the op between two layers of the network.",
        )

    def test_every_axis_alone_is_cut_exactly(self) -> None:
        """The cut network computes the same as the masked original without a random half of one axis."""
        for name, axis in self._coupling().axes.items():
            self._expect_exact({name: _random_half(axis.size, 0)}, f"half of axis {name!r} gone")

    def test_all_axes_together_are_cut_exactly(self) -> None:
        """The cut network computes the same as the masked original without random units of every axis."""
        for seed in range(DRAWS):
            keep = {n: _random_half(a.size, seed + i) for i, (n, a) in enumerate(self._coupling().axes.items())}
            self._expect_exact(keep, f"random units of {len(keep)} axes gone")

    def test_the_model_stays(self) -> None:
        """Analysis and cut leave the model unchanged."""
        before = state_of(self._model())
        with self.case.enrolled():
            couple(capture(self._model(), self.case.inputs))
        changed = first_change(before, state_of(self._model()))
        self.expect(changed is None, "analysing changes the model", changed, "no change", "Let the op be pure.")

    def _model(self) -> nn.Module:
        def make() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return self.case.network().eval()

        return self.once("model", make)

    def _coupling(self) -> Coupling:
        def make() -> Coupling:
            with self.case.enrolled():
                return self.attempt(
                    "the network cannot be analysed",
                    lambda: couple(capture(self._model(), self.case.inputs)),
                    "Give the op a fake implementation (register_fake), and let the rule raise nothing.",
                )

        return self.once("coupling", make)

    def _reaches(self, coupling: Coupling, name: str) -> bool:
        nodes = [node for node in coupling.graph.nodes if base_name(node.op) == self.case.op]
        at = {ref for node in nodes for ref in refs_in(node.args)}
        at |= {Ref(node.name, index) for node in nodes for index in range(len(node.outputs))}
        dims = [expr for ref in at for expr in coupling.values.get(ref, ())]
        keep = {name: np.zeros(coupling.axes[name].size, bool)}
        return any(coupling.kept(expr, keep) < coupling.size(expr) for expr in dims)

    def _expect_exact(self, keep: dict[str, np.ndarray], where: str) -> None:
        model, coupling, inputs = self._model(), self._coupling(), self.case.inputs
        do = "Unify what is the same unit; freeze what the op treats by position."
        with self.case.enrolled():
            plan = self.attempt(f"no plan can be made with {where}", lambda: make_plan(coupling, keep), do)
            small = self.attempt(f"the cut fails with {where}", lambda: cut(model, coupling, plan, inputs), do)
            check = compare_models(model, small, coupling, plan, inputs)
            got = check.failure or f"a relative error of {check.error:.1e}"
            self.expect(
                check.ok, f"the cut network computes something else with {where}", got, f"{check.tolerance:.0e}", do
            )
            counted = cost_model(couple(capture(small, inputs))).price()
        self.expect(
            counted == plan.after,
            f"the price is not that of the network that is cut with {where}",
            f"{plan.after}",
            f"{counted}",
            do,
        )


def _random_half(size: int, seed: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).permutation(size)[: max(1, size // 2)]] = True
    return mask


@door()
def rule_suite(op: str, network: Callable[[], nn.Module], inputs: Any, *, rule: Rule | None = None) -> Any:
    """Return the contract suite of the coupling rule of an op, for pytest to collect.

    Args:
        op: ``namespace.name`` of a custom op, ``name`` of an op of ATen.
        network: makes a network with the op between layers with weights.
        inputs: one call of it.
        rule: the rule itself, if no package has enrolled it yet.

    Example:
        ``TestMine = prunus.testing.rule_suite("my.op", MyNetwork, torch.zeros(2, 8))``
    """
    return suite_for(RuleSuite, op, RuleCase(op, network, inputs, rule))
