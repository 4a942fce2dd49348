"""The contract of repairs: the small network comes closer to the dense one on samples unseen by the repair."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import fit_units
from prunus.criteria import UNIT_CRITERIA, UnitEvidence
from prunus.foundation.arguments import door
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.repairs import REPAIRS, RepairReport, repair_
from prunus.repairs.repairs import Repair
from prunus.surgery.cut import cut
from prunus.testing.cases import example_analysis, example_data, outputs_of
from prunus.testing.suite import Suite, check_member, suite_for

KEPT, SAMPLES = 0.6, 96


@dataclass(frozen=True, slots=True)
class Repaired:
    """A cut network before and after a repair."""

    analysis: Analysis
    plan: Plan
    before: nn.Module
    after: nn.Module
    report: RepairReport


class RepairSuite(Suite):
    """The promises of a repair, on a network without two fifths of its parameters and a quarter of one weight."""

    role = "repair"
    case: str | Repair

    def test_its_record_is_sound(self) -> None:
        """The record has the enrolled name, and the description is one line."""
        member = self._member()
        self.expect_record(member, self.case, "Say in one line what is refitted.")

    def test_it_is_not_taken_back(self) -> None:
        """The outputs come closer to the dense network's on the samples that `repair_` holds out."""
        report = self._repaired().report
        self.expect(
            report.chosen == self.title,
            "it is taken back, for it does not help on held-out samples",
            f"{report}",
            "a smaller one",
            "Return the weight that is closest to the targets on fit and check; see prunus.repairs.refold.",
        )

    def test_new_samples_come_closer(self) -> None:
        """The outputs come closer to the dense network's on new samples too."""
        it = self._repaired()
        inputs = example_data(SAMPLES, 9).inputs
        dense = outputs_of(it.analysis.model, inputs)
        before, after = ((outputs_of(net, inputs) - dense).square().sum() for net in (it.before, it.after))
        self.expect(
            float(after) < float(before),
            "on new samples the outputs do not come closer to the dense network's",
            f"{float(after / dense.square().sum()):.2%}",
            f"less than {float(before / dense.square().sum()):.2%}",
            "Fit less closely to the samples: choose a ridge on check.",
        )

    def test_masked_weights_stay_zero(self) -> None:
        """Weights that the plan masks are zero after the repair."""
        it = self._repaired()
        name = next(iter(it.plan.masks))
        zero = named_tensors(it.before)[name] == 0
        alive = int((named_tensors(it.after)[name][zero] != 0).sum())
        self.expect(
            alive == 0,
            f"masked weights of {name!r} come back",
            f"{alive} of {int(zero.sum())}",
            "none",
            "Multiply the correction by the mask, and solve for what is kept.",
        )

    def test_the_same_again(self) -> None:
        """The same seed gives the same weights."""
        one, other = named_tensors(self._repaired().after), named_tensors(self._repair(1).after)
        name = next((n for n, t in one.items() if not torch.equal(t, other[n])), None)
        self.expect(
            name is None,
            "the same seed gives other weights",
            f"a difference in {name!r}",
            "equal weights",
            "Draw nothing, or from a generator with a fixed seed; keep no state between calls.",
        )

    def _member(self) -> Repair:
        return REPAIRS.get(self.case) if isinstance(self.case, str) else self.case

    @contextlib.contextmanager
    def _enrolled(self) -> Iterator[None]:
        given = contextlib.nullcontext() if isinstance(self.case, str) else REPAIRS.lent(self.case.name, self.case)
        with given:
            yield

    def _analysis(self) -> Analysis:
        return self.once("analysis", example_analysis)

    def _plan(self) -> Plan:
        def make() -> Plan:
            it = self._analysis()
            weights = dict(it.model.named_parameters())
            scores = UNIT_CRITERIA.get("magnitude")(UnitEvidence(it.coupling, weights))
            keep = fit_units(it.cost, {a: s.numpy() for a, s in scores.items()}, it.limit(KEPT))
            name = max((n for n, w in weights.items() if w.dim() > 1), key=lambda n: weights[n].numel())
            size = weights[name].detach().abs()
            return make_plan(it.coupling, keep, masks={name: (size > size.flatten().quantile(0.25)).numpy()})

        return self.once("plan", make)

    def _repair(self, number: int) -> Repaired:
        def make() -> Repaired:
            it, plan = self._analysis(), self._plan()
            before = cut(it.model, it.coupling, plan, it.example_inputs)
            after = copy.deepcopy(before)
            batches: list[Tensor] = list(torch.split(example_data(SAMPLES, 8).inputs, 32))
            with self._enrolled(), torch.random.fork_rng():
                torch.manual_seed(number)
                report: Any = self.attempt(
                    "it fails on a cut convolutional network",
                    lambda: repair_(it.model, after, it.coupling, plan, batches, repair=self.title),
                )
            return Repaired(it, plan, before, after, report)

        return self.once(("repaired", number), make)

    def _repaired(self) -> Repaired:
        return self._repair(0)


@door()
def repair_suite(repair: str | Repair) -> Any:
    """Return the contract suite of a repair, for pytest to collect.

    Args:
        repair: its name, or the `Repair` itself.

    Example:
        ``TestMine = prunus.testing.repair_suite("my-repair")``
    """
    check_member("repair", repair, Repair)
    return suite_for(RepairSuite, repair if isinstance(repair, str) else repair.name, repair)
