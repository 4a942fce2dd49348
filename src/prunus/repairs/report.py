"""The report of a repair: the repairs tried, the one chosen, and its effect on every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LayerRepair:
    """The error of one layer against the dense one, before and after its own repair.

    ``before`` and ``after`` are ‖t − Wx − b‖² in units of the variance of t, on samples that were not fitted;
    ``ridge`` is the chosen λ in units of the mean variance of the inputs, None where the weight is unchanged.
    """

    name: str
    rows: int
    before: float
    after: float
    ridge: float | None


@dataclass(frozen=True, slots=True)
class RepairReport:
    """The outcome of a repair.

    Attributes:
        chosen: the repair that the network has now; ``none`` where no repair helped or none was possible.
        asked: the requested repair.
        samples: calibration samples used; some of them only judge.
        before, after: ‖dense − small‖² / ‖dense‖² of the network's outputs on the samples that only judge; None where
            there were none.
        tried: repair → its ``after``, for every repair that was tried.
        layers: the errors of every layer under the chosen repair, in the order of the program.
        notes: repairs and layers that were left out, and why.
        stopped: Ctrl-C has ended the repair before its time.
    """

    chosen: str
    asked: str
    samples: int
    before: float | None = None
    after: float | None = None
    tried: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[LayerRepair, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: bool = False

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            text = f"repair: {self.chosen} ({self.samples} samples)"
        else:
            text = (
                f"repair: {self.chosen}, outputs off by {self.before:.2%} before and {self.after:.2%} after "
                f"(squared, on samples held out; {self.samples} in all)"
            )
        return "; ".join([text, *self.notes])

    def describe(self) -> dict[str, object]:
        """Return the JSON form without the layers."""
        return {
            "chosen": self.chosen,
            "asked": self.asked,
            "samples": self.samples,
            "before": self.before,
            "after": self.after,
            "tried": dict(self.tried),
            "notes": list(self.notes),
        }
