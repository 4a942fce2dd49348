"""An estimate with the ends of its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval: the 95 % one, where nothing else is said."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MedianRatio(Interval):
    """What a candidate takes over what its baseline takes: the median of the rounds; below 1 is less."""

    @property
    def median(self) -> float:
        """The estimate."""
        return self.estimate
