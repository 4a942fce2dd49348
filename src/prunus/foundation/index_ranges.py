"""Ranges of indices as text, such as ``0-3,6``."""

from __future__ import annotations

import math

import numpy as np

MOST_UNITS = 2**26
"""The most units of all axes and dims of a plan together; checked before memory is allocated."""


def count_of(ranges: str) -> int:
    """Return how many indices ranges name; what is no range counts as nothing, and is refused where it is read."""
    found = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and len(first) < 20 and (not last or (last.isdecimal() and len(last) < 20)):
            found += max(0, int(last or first) - int(first) + 1)
    return found


def to_ranges(indices: np.ndarray) -> str:
    """Write sorted indices as ranges.

    Example:
        >>> to_ranges(np.array([0, 1, 2, 5]))
        '0-2,5'
    """
    if len(indices) == 0:
        return ""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    runs = np.split(np.asarray(indices), breaks)
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def from_ranges(text: str, most: int = MOST_UNITS) -> np.ndarray:
    """Read ranges that `to_ranges` wrote.

    Args:
        text: ranges in rising order.
        most: allowed are the indices 0 to ``most`` − 1; a longer range is refused before memory is allocated.

    Raises:
        ValueError: text of another form; the message names it.
    """
    runs, before = [], -1
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (last and not (last.isascii() and last.isdigit())):
            raise ValueError(f"{part[:40]!r} is no range such as '0-2'")
        start, stop = (int(number) if len(number) < 20 else most for number in (first, last or first))
        if not before < start <= stop:
            raise ValueError(f"the range {part[:40]!r} does not rise")
        if stop >= most:
            raise ValueError(f"index {stop} outside 0..{most - 1}")
        runs.append(np.arange(start, stop + 1))
        before = stop
    return np.concatenate(runs) if runs else np.zeros(0, np.int64)


def unpacked_bits(packed: np.ndarray, shape: list[int]) -> np.ndarray:
    """Return a mask of a shape from its packed bits.

    Raises:
        ValueError: another number of bytes than the shape needs.
    """
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.ndim != 1 or len(packed) != -(-count // 8):
        raise ValueError(f"a mask of shape {shape} is not {len(packed)} bytes")
    return np.unpackbits(packed, count=count).astype(bool).reshape(shape)
