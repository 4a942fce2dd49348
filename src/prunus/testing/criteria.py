"""The contract of unit criteria: a finite, reproducible score for every unit, whatever the order of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.criteria import (
    PROBES,
    Calibration,
    CriterionLike,
    UnitEvidence,
    collect_evidence,
    criterion_name,
    criterion_of,
    needs_of,
)
from prunus.foundation.arguments import door
from prunus.graph.capture import capture
from prunus.graph.coupling import couple
from prunus.testing.cases import example_analysis, permuted, plain_axis, state_of
from prunus.testing.suite import Suite, check_member, suite_for

SCALES = ("loss", "energy", "norm")
COUNT, BATCH = 64, 32
CLOSE = 1e-3
"""Largest relative difference of scores where only the order of a sum differs."""
TINY = 1e-6
"""The same for scores near zero, relative to the largest score of the axis."""


@dataclass(frozen=True, slots=True)
class CriterionCase:
    """A unit criterion, and the function that makes its analysis."""

    criterion: CriterionLike
    analysis: Callable[[], Analysis]


class CriterionSuite(Suite):
    """The promises of a unit criterion."""

    role = "criterion"
    case: CriterionCase

    def test_it_declares_what_it_reads(self) -> None:
        """``needs`` names statistics that a probe measures; ``scale`` is one of `SCALES`."""
        criterion = criterion_of(self.case.criterion)
        given = [name for probe in PROBES for name in PROBES.get(probe).gives]
        needs, scale = needs_of(self.case.criterion), getattr(criterion, "scale", "energy")
        unknown = [name for name in needs if name not in given]
        self.expect(
            not unknown,
            "needs names what no pass over data gives",
            unknown,
            ", ".join(given),
            "Name statistics that a probe gives, or enrol a probe.",
        )
        self.expect(scale in SCALES, "scale is unknown", repr(scale), ", ".join(SCALES), "See UnitRule.")

    def test_every_unit_has_a_score(self) -> None:
        """The result maps every removable axis, and no other, to (units,) finite floating-point scores."""
        scores, axes = self._scores(), self._analysis().coupling.axes
        self.expect(
            isinstance(scores, dict) and scores.keys() == axes.keys(),
            "the scores name other axes than there are",
            sorted(scores) if isinstance(scores, dict) else type(scores).__name__,
            f"a dict with {sorted(axes)}",
            "Score every axis of evidence.coupling.axes.",
        )
        for name, score in scores.items():
            got = f"{tuple(score.shape)} {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
            self.expect(
                isinstance(score, Tensor) and score.shape == (axes[name].size,) and score.is_floating_point(),
                f"the scores of axis {name!r} have another form",
                got,
                f"a float tensor ({axes[name].size},)",
                "Return one number a unit.",
            )
            bad = int((~torch.isfinite(score)).sum())
            self.expect(
                not bad,
                f"axis {name!r} has scores that are NaN or infinite",
                f"{bad} of {len(score)}",
                "finite numbers",
                "Guard divisions and logarithms.",
            )

    def test_scores_tell_units_apart(self) -> None:
        """Some units of an axis score differently."""
        self.expect(
            any(float(s.max()) > float(s.min()) for s in self._scores().values() if len(s) > 1),
            "all units of every axis score the same",
            "no difference",
            "different scores for different units",
            "Check that the criterion reads the weights or statistics of single units.",
        )

    def test_model_and_evidence_stay(self) -> None:
        """The evidence is unchanged: weights, gradients, modes and random state are as before."""
        analysis = self._analysis()
        before = state_of(analysis.model)
        evidence = self._evidence(analysis.model)
        statistics = {(n, k): v.clone() for n, part in evidence.more.items() for k, v in part.items()}
        random = torch.random.get_rng_state()
        self._called(evidence)
        self.expect_unchanged(analysis.model, before)
        after = {(n, k): v for n, part in evidence.more.items() for k, v in part.items()}
        spoilt = [k for k, v in statistics.items() if k not in after or not torch.equal(v, after[k])]
        self.expect(not spoilt, "it changes a statistic", spoilt[:1], "no change", "Work on copies, not in place.")
        self.expect_no_draw(random)

    def test_the_same_again(self) -> None:
        """The same evidence gives the same scores, to the bit, whatever random numbers were drawn before."""
        found = []
        for seed in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                found.append(self._called(self._evidence(self._analysis().model)))
        name = next((n for n, s in found[0].items() if not torch.equal(s, found[1][n])), None)
        self.expect(
            name is None,
            "the same evidence gives other scores",
            f"a difference on axis {name!r}",
            "equal scores",
            "Draw from torch.Generator().manual_seed(evidence.seed), and keep no state between calls.",
        )

    def test_the_order_of_samples_changes_nothing(self) -> None:
        """Samples in another order, and thus in other batches, give the same scores within rounding."""
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(5))
        other = self._called(self._evidence(self._analysis().model, order))
        self._expect_close(
            self._scores(),
            other,
            "samples in another order give other scores",
            "Take means over samples, not over batches; give mixes_samples=True where that is the point.",
        )

    def test_the_order_of_units_changes_nothing(self) -> None:
        """Units in another order keep their scores, and so does every other axis."""
        analysis = self._analysis()
        axis = plain_axis(analysis.coupling)
        order = torch.randperm(axis.size, generator=torch.Generator().manual_seed(7))
        other = dict(self._called(self._evidence(permuted(analysis.model, axis, order))))
        other[axis.id] = torch.empty_like(other[axis.id]).index_copy_(0, order, other[axis.id])
        self._expect_close(
            self._scores(),
            other,
            f"the units of axis {axis.id!r} in another order have other scores",
            "A score may depend on what a unit holds, not on its number; give draws=True where numbers are drawn.",
        )

    def _analysis(self) -> Analysis:
        return self.once("analysis", self.case.analysis)

    def _evidence(self, model: nn.Module, order: Tensor | None = None) -> UnitEvidence:
        analysis = self._analysis()
        same = model is analysis.model
        coupling = analysis.coupling if same else couple(capture(model, analysis.example_inputs))
        samples: Any = next(iter(analysis.calibration.batches(COUNT)))
        parts = [torch.split(part if order is None else part[order], BATCH) for part in samples]
        batches = list(zip(*parts, strict=True))
        calibration = Calibration(model, coupling, batches, analysis.loss, analysis.seed)
        return self.attempt(
            "what it needs cannot be measured", lambda: collect_evidence(self.case.criterion, calibration)
        )

    def _called(self, evidence: UnitEvidence) -> Any:
        return self.attempt(
            "it does not score this evidence",
            lambda: criterion_of(self.case.criterion)(evidence),
            "Declare in needs what it reads, and let it work on every axis.",
        )

    def _scores(self) -> Any:
        return self.once("scores", lambda: self._called(self._evidence(self._analysis().model)))

    def _expect_close(self, one: dict[str, Tensor], other: dict[str, Tensor], what: str, do: str) -> None:
        for name, score in one.items():
            least = TINY * float(score.abs().max())
            off = float(((score - other[name]).abs() / (score.abs() + least / CLOSE + 1e-300)).max())
            self.expect(off <= CLOSE, what, f"a relative difference of {off:.1e} on axis {name!r}", f"{CLOSE:g}", do)


@door()
def criterion_suite(
    criterion: CriterionLike,
    *,
    draws: bool = False,
    mixes_samples: bool = False,
    analysis: Callable[[], Analysis] = example_analysis,
) -> Any:
    """Return the contract suite of a unit criterion, for pytest to collect.

    Args:
        criterion: its name, a `UnitRule`, or a plain function (group) → scores.
        draws: scores are drawn, so they depend on the index of a unit.
        mixes_samples: scores depend on the composition of batches.
        analysis: makes the analysed network of the checks; by default `example_analysis`.

    Example:
        ``TestMine = prunus.testing.criterion_suite("my-criterion")``
    """
    check_member("criterion", criterion)
    skipped = [("test_the_order_of_units_changes_nothing", draws)]
    skipped += [("test_the_order_of_samples_changes_nothing", mixes_samples)]
    leave_out = tuple(name for name, applies in skipped if applies)
    return suite_for(CriterionSuite, criterion_name(criterion), CriterionCase(criterion, analysis), leave_out)
