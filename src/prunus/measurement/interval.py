"""An estimate with the ends of its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval, by default the 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MedianRatio(Interval):
    """The cost of a candidate over that of its baseline: the median of the rounds; below 1 is cheaper."""

    @property
    def median(self) -> float:
        """The estimate."""
        return self.estimate
