"""Paired differences with their interval, and the hours of the whole from the rows so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from .cases import NETS, Row

Rows = Mapping[str, Row]
_QUANTILES = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    11: 2.201,
    12: 2.179,
    13: 2.160,
    14: 2.145,
    15: 2.131,
    16: 2.120,
    17: 2.110,
    18: 2.101,
    19: 2.093,
}
"""Degrees of freedom → 97.5 % quantile of Student's t."""


def seeds_of(rows: Rows, start: str) -> dict[int, Row]:
    """Return seed → row, of the rows named start/SEED that gave a network."""
    found = {name.removeprefix(f"{start}/"): row for name, row in rows.items() if name.startswith(f"{start}/")}
    return {int(seed): row for seed, row in found.items() if seed.isdigit() and row.get("ok", True)}


def arm_of(rows: Rows, net: str, kept: float, arm: str) -> dict[int, Row]:
    """Return seed → row of an arm on a network."""
    return seeds_of(rows, f"arm/{net}/{kept:g}/{arm}")


def gains(ours: Mapping[int, Row], theirs: Mapping[int, Row], field: str = "accuracy") -> list[float]:
    """Return ours minus theirs on the seeds that both have."""
    return [ours[seed][field] - theirs[seed][field] for seed in sorted(ours.keys() & theirs.keys())]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by Student's t; endless for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = _QUANTILES.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def points(values: Sequence[float], sign: str = "+") -> str:
    """Return a mean with its interval in points of accuracy."""
    if not values:
        return "–"
    mean, low, high = interval(values)
    within = "" if len(values) < 2 else f" [{low * 100:{sign}.2f}, {high * 100:{sign}.2f}]"
    return f"{mean * 100:{sign}.2f}{within}"


def hours(rows: Rows, names: Iterable[str]) -> tuple[float, float]:
    """Return the hours of processor time of the rows so far, and of all rows.

    A row that is missing counts as the mean of the same row of other seeds, else of other networks, else of its kind.
    """
    known: dict[tuple[str, ...], list[float]] = {}
    done = 0.0
    for name, row in rows.items():
        spent = row.get("training_seconds", 0.0) + row.get("cpu_seconds", 0.0)
        done += spent
        for key in _keys(name):
            known.setdefault(key, []).append(spent)
    missing = 0.0
    for name in names:
        if name not in rows:
            missing += next((statistics.fmean(known[key]) for key in _keys(name) if key in known), 0.0)
    return done / 3600, (done + missing) / 3600


def _keys(name: str) -> tuple[tuple[str, ...], ...]:
    """Return the keys under which a row is looked up, the closest first."""
    kind, _, rest = name.rpartition("/")[0].partition("/")
    net = next((net for net in NETS if rest.startswith(net)), "")
    return (kind, rest), (kind, "of any network", rest.removeprefix(net)), (kind,)
