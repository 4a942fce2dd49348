"""Intervals from resampled measurements.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13 (the percentile interval).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunus.measurement.interval import Interval

RESAMPLES = 2000
_ENDS = (0.025, 0.975)


def percentile_interval(estimate: float, resampled: NDArray[np.float64]) -> Interval:
    """Return the 95 % interval of an estimate from its values on resampled data."""
    low, high = np.quantile(resampled, _ENDS)
    return Interval(float(estimate), float(low), float(high))


def median_interval(values: NDArray[np.float64], seed: int) -> Interval:
    """Return the median of repeated measurements with its 95 % bootstrap interval.

    Args:
        values: one for each round.
        seed: of the resampling.
    """
    draws = np.random.default_rng(seed).integers(0, len(values), size=(RESAMPLES, len(values)))
    return percentile_interval(float(np.median(values)), np.median(values[draws], axis=1))
