"""Averages over seeds of one method at one kept fraction, for a line of the table or a mark in a chart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from prunus.measurement.interval import Interval
from prunus.report.results import Level, Results, Row, Spread, Summary

LEVELS: tuple[Level, ...] = ("weight", "neuron", "structure", "hierarchical", "baseline")


@dataclass(frozen=True, slots=True)
class Cell:
    """One method at one kept fraction, averaged over ``n`` seeds.

    Units: as in a row. ``forward`` and ``backward`` are mean latency ratios with the widest range that the intervals of
    the seeds span; None if one seed was not timed.
    """

    method: str
    level: Level
    kept_fraction: float
    n: int
    before: float
    accuracy: Spread
    f1_macro: Spread
    worst_class: Spread
    params: float
    nonzero: float
    macs_forward: float
    size_bytes: float
    seconds: float
    forward: Interval | None
    backward: Interval | None
    auc: float | None = None
    bits: float | None = None
    repair: str = "none"

    @property
    def forward_ratio(self) -> float | None:
        """The mean forward time in shares of the dense time."""
        return self.forward.estimate if self.forward is not None else None

    @property
    def backward_ratio(self) -> float | None:
        """The same for the backward pass."""
        return self.backward.estimate if self.backward is not None else None

    @property
    def faster(self) -> bool:
        """Return whether the whole forward interval lies below the dense time."""
        return self.forward is not None and self.forward.high < 1.0

    @property
    def slower(self) -> bool:
        """Return whether the whole forward interval lies above the dense time."""
        return self.forward is not None and self.forward.low > 1.0


def make_cells(results: Results) -> tuple[Cell, ...]:
    """Return one cell per summary: most kept first, then by level, then in the order of the methods."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in results.runs:
        groups.setdefault((row.method, row.kept_fraction), []).append(row)
    cells = [_cell(item, groups[item.method, item.kept_fraction]) for item in results.summary]
    return tuple(sorted(cells, key=lambda cell: (-cell.kept_fraction, LEVELS.index(cell.level))))


def dense_cell(results: Results) -> Cell:
    """Return the dense network averaged over its training seeds."""
    rows = list(results.dense_runs)
    names = ("accuracy", "f1_macro", "worst_class")
    spreads = {name: Spread.of([getattr(row, name) for row in rows]) for name in names}
    item = Summary("dense", "dense", 1.0, len(rows), **spreads, latency_forward_ratio=None, latency_backward_ratio=None)
    return _cell(item, rows)


def kept_fractions(cells: tuple[Cell, ...]) -> list[float]:
    """Return the kept fractions that occur, greatest first."""
    return sorted({cell.kept_fraction for cell in cells}, reverse=True)


def levels(cells: tuple[Cell, ...]) -> list[Level]:
    """Return the levels that occur, from single weights upwards."""
    return [level for level in LEVELS if any(cell.level == level for cell in cells)]


def at(cells: tuple[Cell, ...], kept: float) -> list[Cell]:
    """Return the cells of one kept fraction."""
    return [cell for cell in cells if cell.kept_fraction == kept]


def _cell(item: Summary, rows: list[Row]) -> Cell:
    def mean(name: str) -> float:
        return statistics.fmean(getattr(row, name) for row in rows)

    measured: dict[str, Any] = {}
    for way in ("forward", "backward"):
        ends = [getattr(row, f"latency_{way}_interval") for row in rows]
        if None in ends:
            measured[way] = None
        else:
            lows, highs = zip(*ends, strict=True)
            measured[way] = Interval(mean(f"latency_{way}_ratio"), min(lows), max(highs))
    for name in ("auc", "bits"):
        measured[name] = mean(name) if all(getattr(row, name) is not None for row in rows) else None
    return Cell(
        method=item.method,
        level=item.level,
        kept_fraction=item.kept_fraction,
        n=item.n,
        before=mean("accuracy_before_recovery"),
        accuracy=item.accuracy,
        f1_macro=item.f1_macro,
        worst_class=item.worst_class,
        params=mean("params"),
        nonzero=mean("nonzero"),
        macs_forward=mean("macs_forward"),
        size_bytes=mean("size_bytes"),
        seconds=mean("seconds"),
        repair=rows[0].repair,
        **measured,
    )
