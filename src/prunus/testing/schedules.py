"""The contract of schedules: 1 at the beginning, exactly the final fraction at the end, never rising."""

from __future__ import annotations

import itertools
import math
from typing import Any

from prunus.foundation.arguments import door
from prunus.foundation.registry import title_of
from prunus.testing.suite import Suite, check_member, suite_for
from prunus.training.schedules import KEPT_SCHEDULES, Schedule

KEPT = (0.01, 0.1, 0.37, 0.5, 0.9, 1.0)
STEPS = 96
ROUNDING = 1e-12


class ScheduleSuite(Suite):
    """The promises of a schedule (progress, final kept fraction) → kept fraction."""

    role = "schedule"
    case: str | Schedule

    def test_it_begins_whole(self) -> None:
        """k(0) = 1."""
        for kept in KEPT:
            self._expect_value(self._at(0.0, kept), 1.0, f"at progress 0 with the final fraction {kept}")

    def test_it_ends_at_the_final_fraction(self) -> None:
        """k(1) = the final fraction."""
        for kept in KEPT:
            self._expect_value(self._at(1.0, kept), kept, f"at progress 1 with the final fraction {kept}")

    def test_it_stays_between_final_and_whole(self) -> None:
        """The fraction is finite and lies between the final one and 1 at every moment."""
        for kept, s in self._moments():
            value = self._at(s, kept)
            self.expect(
                kept - ROUNDING <= value <= 1 + ROUNDING,
                f"the fraction at progress {s:.3f} leaves its range",
                value,
                f"{kept} to 1",
                "What was pruned must not come back, and the end is the least.",
            )

    def test_it_never_rises(self) -> None:
        """s ≤ t gives k(s) ≥ k(t)."""
        last: dict[float, float] = {}
        for kept, s in self._moments():
            value = self._at(s, kept)
            before = last.get(kept, 1.0)
            self.expect(
                value <= before + ROUNDING,
                f"the fraction rises at progress {s:.3f} towards {kept}",
                f"{before:.6f} → {value:.6f}",
                "no rise",
                "What was pruned must not come back.",
            )
            last[kept] = value

    def test_a_smaller_final_fraction_never_keeps_more(self) -> None:
        """A smaller final fraction keeps no more at any moment."""
        for i in range(STEPS + 1):
            values = [(kept, self._at(i / STEPS, kept)) for kept in KEPT]
            for (low, one), (high, other) in itertools.pairwise(values):
                self.expect(
                    one <= other + ROUNDING,
                    f"at progress {i / STEPS:.3f} the final fraction {low} keeps more than {high}",
                    f"{one:.6f} and {other:.6f}",
                    "no more",
                    "Let the fraction grow with the final one.",
                )

    def test_it_has_no_memory(self) -> None:
        """The same moment gives the same fraction, whatever the earlier calls."""
        forwards = [self._at(s, kept) for kept, s in self._moments()]
        backwards = [self._at(s, kept) for kept, s in reversed(self._moments())][::-1]
        self.expect(
            forwards == backwards,
            "the same moment gives another fraction when asked in another order",
            "a difference",
            "a pure function",
            "Keep no state: training may be resumed at any step.",
        )

    def _moments(self) -> list[tuple[float, float]]:
        return [(kept, i / STEPS) for kept in KEPT for i in range(STEPS + 1)]

    def _at(self, s: float, kept: float) -> float:
        schedule = KEPT_SCHEDULES.get(self.case) if isinstance(self.case, str) else self.case
        value: Any = self.attempt(f"it fails at progress {s} with the final fraction {kept}", lambda: schedule(s, kept))
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        self.expect(good, f"at progress {s} it returns no number", repr(value), "a finite float", "Return a float.")
        return float(value)

    def _expect_value(self, value: float, expected: float, where: str) -> None:
        self.expect(
            abs(value - expected) <= ROUNDING,
            f"the fraction {where} is another",
            value,
            f"{expected}",
            "Handle both ends exactly.",
        )


@door()
def schedule_suite(schedule: str | Schedule) -> Any:
    """Return the contract suite of a pruning schedule, for pytest to collect.

    Args:
        schedule: its name, or the function itself.

    Example:
        ``TestMine = prunus.testing.schedule_suite("my-schedule")``
    """
    check_member("schedule", schedule)
    return suite_for(ScheduleSuite, title_of(schedule), schedule)
