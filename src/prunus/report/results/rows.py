"""The rows of a comparison: one measured network each, with its layers, and the machine of the measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from prunus.errors import DataError

Level = Literal["dense", "weight", "neuron", "structure", "hierarchical", "baseline"]
Interval = tuple[float, float]

_SHARES = ("accuracy_before_recovery", "accuracy", "precision_macro", "recall_macro", "f1_macro", "worst_class")
_COUNTS = ("params", "nonzero", "macs_forward", "macs_backward", "size_bytes")
_POSITIVE = ("latency_forward_ratio", "latency_backward_ratio", "latency_forward_ms", "latency_backward_ms")


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of the measurements: versions, processor, threads and the batch of the latency runs."""

    torch: str
    python: str
    cpu: str
    threads: int
    batch: int


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer before and after: units (channels, neurons, heads) and weights.

    Units: params_before and nonzero_after count scalars.
    Raises: DataError: more after than before, or a negative count.
    """

    name: str
    kind: str
    units_before: int
    units_after: int
    params_before: int
    nonzero_after: int
    dropped: bool

    def __post_init__(self) -> None:
        for after, before in (("units_after", "units_before"), ("nonzero_after", "params_before")):
            if not 0 <= getattr(self, after) <= getattr(self, before):
                raise DataError(
                    f"layer {self.name!r}: {after} is {getattr(self, after)}, "
                    f"allowed 0 to {before} = {getattr(self, before)}."
                )


@dataclass(frozen=True, slots=True)
class Row:
    """One network, measured: the dense one, or one method at one kept fraction with one seed.

    Units: shares in 0..1 (accuracy … worst_class, flip_rate, kept_fraction); counts of scalars (params, nonzero)
    and of multiply-accumulates for one sample (macs_*); bytes; latency ratios are pruned ÷ dense time, below 1 is
    faster, with a 95 % interval, null where not timed; seconds of wall-clock. ``repair`` names the refitting of weights
    without labels between the cut and ``accuracy_before_recovery``. ``auc`` is given for two classes,
    ``bits`` (per target) for samples with many targets.
    Raises: DataError: a share, count or interval outside its range.
    """

    method: str
    level: Level
    kept_fraction: float
    seed: int
    kept_actual: float
    accuracy_before_recovery: float
    accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    worst_class: float
    params: int
    nonzero: int
    macs_forward: int
    macs_backward: int
    size_bytes: int
    latency_forward_ratio: float | None
    latency_forward_interval: Interval | None
    latency_backward_ratio: float | None
    latency_backward_interval: Interval | None
    seconds: float
    check_error: float | None
    notes: tuple[str, ...] = ()
    structure: tuple[LayerChange, ...] = ()
    flip_rate: float | None = None
    latency_forward_ms: float | None = None
    latency_backward_ms: float | None = None
    auc: float | None = None
    bits: float | None = None
    repair: str = "none"

    def __post_init__(self) -> None:
        for name in (*_SHARES, "flip_rate", "auc"):
            self._check(name, 0.0, 1.0)
        for name in (*_COUNTS, "kept_actual", "seconds", "check_error", "bits"):
            self._check(name, 0.0, math.inf)
        self._check("kept_fraction", 0.0, 1.0, above=True)
        for name in _POSITIVE:
            self._check(name, 0.0, math.inf, above=True)
        if self.nonzero > self.params:
            raise DataError(f"{self.place}: nonzero is {self.nonzero}, allowed at most params = {self.params}.")
        for name in ("latency_forward", "latency_backward"):
            ratio, interval = getattr(self, f"{name}_ratio"), getattr(self, f"{name}_interval")
            if (ratio is None) != (interval is None):
                raise DataError(f"{self.place}: {name}_ratio and {name}_interval must both be given or both be null.")
            if interval is not None and not 0.0 < interval[0] <= interval[1] < math.inf:
                raise DataError(f"{self.place}: {name}_interval is {list(interval)}, allowed 0 < low <= high.")

    @property
    def place(self) -> str:
        """Name the row in an error message."""
        return f"row {self.method!r} at {self.kept_fraction}, seed {self.seed}"

    def _check(self, name: str, low: float, high: float, *, above: bool = False) -> None:
        value = getattr(self, name)
        if value is None or (low <= value <= high and math.isfinite(value) and not (above and value == low)):
            return
        limits = f"{'above' if above else 'at least'} {low:g}" + (
            f", at most {high:g}" if high < math.inf else ", finite"
        )
        raise DataError(f"{self.place}: {name} is {value}, allowed: {limits}.")


def named(method: str, repair: str) -> str:
    """Return the name of a method with a repair, as rows show it.

    Example:
        >>> named("magnitude", "refold")
        'magnitude + refold'
    """
    return method if repair == "none" else f"{method} + {repair}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A method that was requested and not run at one kept fraction, and the reason."""

    method: str
    kept_fraction: float
    reason: str
