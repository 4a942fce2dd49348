"""How far repeated runs lie apart: mean, deviation, extremes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from prunus.errors import DataError


@dataclass(frozen=True, slots=True)
class Spread:
    """What several runs (seeds, folds, shifts) of one measurement gave.

    ``std`` is the sample deviation, with n − 1 below the line; a single run says nothing about spread, and has 0.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g} (n={self.n})"


def spread(values: Iterable[float]) -> Spread:
    """Return mean, sample deviation, lowest and highest of repeated measurements.

    std = √(Σ(v − mean)² / (n − 1)), and 0 for n = 1.

    Args:
        values: One number a run; at least one.

    Raises:
        DataError: no values, or one that is not finite.

    Example:
        >>> spread([0.97, 0.98, 0.99]).mean
        0.98
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise DataError("spread got no values; at least 1 run is needed. Check that the runs were not all skipped.")
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise DataError(f"spread got {number} as value {index}; allowed: finite numbers. Leave failed runs out.")
    std = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Spread(statistics.fmean(numbers), std, min(numbers), max(numbers), len(numbers))
