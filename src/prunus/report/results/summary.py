"""Summaries over seeds, one for each method and kept fraction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prunus.errors import DataError
from prunus.report.results.rows import Level, Row

_SPREADS = ("accuracy", "f1_macro", "worst_class", "latency_forward_ratio", "latency_backward_ratio")


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, sample standard deviation (0 for one seed), least and greatest value over seeds."""

    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value.

        Example:
            >>> Spread.of([1.0, 3.0]).mean
            2.0
        """
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), std, min(values), max(values))


@dataclass(frozen=True, slots=True)
class Summary:
    """One method at one kept fraction, over its seeds; a latency spread is null if any seed was not timed."""

    method: str
    level: Level
    kept_fraction: float
    n: int
    accuracy: Spread
    f1_macro: Spread
    worst_class: Spread
    latency_forward_ratio: Spread | None
    latency_backward_ratio: Spread | None


def summarise(runs: Iterable[Row]) -> tuple[Summary, ...]:
    """Return mean, std, min and max over seeds for each method and kept fraction, in the order of first appearance.

    Raises: DataError: a method that appears twice with one seed, or under two levels.
    """
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in runs:
        groups.setdefault((row.method, row.kept_fraction), []).append(row)
    return tuple(_summary_of(rows) for rows in groups.values())


def _summary_of(rows: list[Row]) -> Summary:
    first = rows[0]
    if len({row.seed for row in rows}) != len(rows) or len({row.level for row in rows}) != 1:
        raise DataError(f"results: {first.place}: the method must have one level, and one row for each seed.")
    spreads: dict[str, Any] = {}
    for name in _SPREADS:
        values = [getattr(row, name) for row in rows]
        spreads[name] = None if None in values else Spread.of(values)
    return Summary(first.method, first.level, first.kept_fraction, len(rows), **spreads)


def agree(left: tuple[Summary, ...], right: tuple[Summary, ...]) -> bool:
    """Return whether two summaries hold the same groups and, but for the last digits, the same numbers."""

    # Another writer may add up in another order, so the last digits may differ.
    def numbers(summary: Summary) -> list[float | None]:
        spreads = [getattr(summary, name) for name in _SPREADS]
        return [getattr(s, part) if s else None for s in spreads for part in ("mean", "std", "min", "max")]

    def close(a: float | None, b: float | None) -> bool:
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)

    def key(summary: Summary) -> tuple[str, float, str, int]:
        return (summary.method, summary.kept_fraction, summary.level, summary.n)

    theirs = {key(item): item for item in left}
    return len(left) == len(right) and all(
        key(mine) in theirs and all(map(close, numbers(theirs[key(mine)]), numbers(mine))) for mine in right
    )
