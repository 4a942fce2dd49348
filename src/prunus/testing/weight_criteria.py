"""The contract of weight criteria: a finite score for every weight, in any precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.criteria import CriterionLike, Evidence, criterion_name, weight_criterion_of
from prunus.errors import OptionError
from prunus.foundation.arguments import door
from prunus.testing.suite import Suite, check_member, suite_for

SHAPES = {"conv.weight": (6, 4, 3, 3), "linear.weight": (5, 7)}
STATISTICS = ("grad_sq", "grad_abs", "grad", "movement", "input_norm")
CLOSE = 1e-4


def _evidence(
    order: Tensor | None = None, *, statistics: bool = True, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> Evidence:
    """Return weights with all statistics, drawn from the same seed; ``order`` permutes the rows of the conv."""
    draw = torch.Generator().manual_seed(0)

    def drawn(positive: bool = False, size: float = 1.0) -> dict[str, Tensor]:
        tensors = {n: size * torch.randn(shape, generator=draw) for n, shape in SHAPES.items()}
        if order is not None:
            tensors["conv.weight"] = tensors["conv.weight"][order]
        return {n: (t.abs() if positive else t) for n, t in tensors.items()}

    weights = {n: w.to(dtype) for n, w in drawn(size=scale).items()}
    more = {name: drawn(name in ("grad_sq", "grad_abs", "input_norm")) for name in STATISTICS if statistics}
    return Evidence(weights, **more)  # type: ignore[arg-type]


class WeightCriterionSuite(Suite):
    """The promises of a weight criterion."""

    role = "weight criterion"
    case: CriterionLike

    def test_every_weight_has_a_score(self) -> None:
        """The result maps every weight, and no other, to finite floating-point scores of its shape."""
        self._expect_scores(self._called(_evidence()), "")

    def test_scores_tell_weights_apart(self) -> None:
        """Some weights score differently."""
        self.expect(
            any(float(s.max()) > float(s.min()) for s in self._called(_evidence()).values()),
            "all weights of every tensor score the same",
            "no difference",
            "different scores for different weights",
            "Check that the criterion reads the single weights or their statistics.",
        )

    def test_the_evidence_stays(self) -> None:
        """Weights, statistics and the random state are unchanged."""
        evidence, before = _evidence(), _evidence()
        random = torch.random.get_rng_state()
        self._called(evidence)
        for field in ("weights", *STATISTICS):
            same = all(torch.equal(t, getattr(before, field)[n]) for n, t in getattr(evidence, field).items())
            self.expect(same, f"it changes {field}", "other values", "no change", "Work on copies, not in place.")
        self.expect_no_draw(random)

    def test_the_same_again(self) -> None:
        """The same evidence gives the same scores, to the bit, whatever random numbers were drawn before."""
        found = []
        for seed in (1, 2):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                found.append(self._called(_evidence()))
        name = next((n for n, s in found[0].items() if not torch.equal(s, found[1][n])), None)
        self.expect(
            name is None,
            "the same evidence gives other scores",
            f"a difference in {name!r}",
            "equal scores",
            "Draw from torch.Generator().manual_seed(evidence.seed), and keep no state between calls.",
        )

    def test_the_order_of_rows_changes_nothing(self) -> None:
        """The rows of a weight in another order keep their scores."""
        order = torch.randperm(SHAPES["conv.weight"][0], generator=torch.Generator().manual_seed(7))
        plain, other = self._called(_evidence()), self._called(_evidence(order))
        expected = plain["conv.weight"][order]
        off = float((other["conv.weight"] - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
        self.expect(
            off <= CLOSE,
            "the rows of a weight in another order have other scores",
            f"a difference of {off:.1e}",
            f"{CLOSE:g}",
            "A score may depend on what a row holds, not on its number; give draws=True where drawn.",
        )

    def test_missing_statistics_are_named(self) -> None:
        """A criterion without its statistics still scores, or names them in one line (`OptionError`)."""
        evidence = _evidence(statistics=False)
        try:
            weight_criterion_of(self.case)(evidence)
        except OptionError:
            self.refused(
                "it needs a statistic that is missing",
                lambda: weight_criterion_of(self.case)(evidence),
                OptionError,
                "Say it in one line.",
            )
        except Exception as error:  # a member may fail in any way
            self.fail(
                "without statistics it fails without naming one",
                f"{type(error).__name__}: {error}",
                "scores, or an OptionError that names the field",
                "Ask prunus.criteria.weight_statistics.needed for it.",
            )

    def test_half_precision_is_taken(self) -> None:
        """Large and small weights in float16 have finite scores that differ."""
        for scale in (1e-3, 3e2):
            scores = self._called(_evidence(dtype=torch.float16, scale=scale))
            where = f" for float16 weights of size {scale:g}"
            self._expect_scores(scores, where)
            flat = [n for n, s in scores.items() if not float(s.max()) > float(s.min())]
            self.expect(
                not flat,
                f"the scores{where} vanish or saturate",
                f"one value for all of {flat}",
                "different scores",
                "Compute in float32: prunus.criteria.weight_statistics.precise(weight).",
            )

    def _called(self, evidence: Evidence) -> Any:
        return self.attempt("it does not score this evidence", lambda: weight_criterion_of(self.case)(evidence))

    def _expect_scores(self, scores: Any, where: str) -> None:
        names = scores.keys() if isinstance(scores, Mapping) else type(scores).__name__
        self.expect(
            isinstance(scores, Mapping) and scores.keys() == SHAPES.keys(),
            f"the scores{where} name other weights",
            names,
            f"a dict with {sorted(SHAPES)}",
            "Score every weight of evidence.weights.",
        )
        for name, score in scores.items():
            got = f"{tuple(score.shape)} {score.dtype}" if isinstance(score, Tensor) else type(score).__name__
            self.expect(
                isinstance(score, Tensor) and score.shape == SHAPES[name] and score.is_floating_point(),
                f"the scores of {name!r}{where} have another form",
                got,
                f"a float tensor {SHAPES[name]}",
                "Return one number a weight.",
            )
            bad = int((~torch.isfinite(score)).sum())
            self.expect(
                not bad,
                f"scores of {name!r}{where} are NaN or infinite",
                f"{bad} of {score.numel()}",
                "finite numbers",
                "Guard divisions, and compute in float32 or wider.",
            )


@door()
def weight_criterion_suite(criterion: CriterionLike, *, draws: bool = False) -> Any:
    """Return the contract suite of a weight criterion, for pytest to collect.

    Args:
        criterion: its name, or a plain function (name, weight) → scores.
        draws: scores are drawn, so they depend on the position of a weight.

    Example:
        ``TestMine = prunus.testing.weight_criterion_suite("my-criterion")``
    """
    check_member("criterion", criterion)
    leave_out = ("test_the_order_of_rows_changes_nothing",) if draws else ()
    return suite_for(WeightCriterionSuite, criterion_name(criterion), criterion, leave_out)
