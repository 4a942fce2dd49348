"""Ranges of indices as text, such as ``0-3,6``."""

from __future__ import annotations

import math

import numpy as np


def count_of(ranges: str) -> int:
    """Return how many indices ranges name; what is no range counts as nothing, and is refused where it is read."""
    found = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and len(first) < 20 and (not last or (last.isdecimal() and len(last) < 20)):
            found += max(0, int(last or first) - int(first) + 1)
    return found


def unpacked_bits(packed: np.ndarray, shape: list[int]) -> np.ndarray:
    """Return a mask of a shape from its packed bits.

    Raises:
        ValueError: another number of bytes than the shape needs.
    """
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.ndim != 1 or len(packed) != -(-count // 8):
        raise ValueError(f"a mask of shape {shape} is not {len(packed)} bytes")
    return np.unpackbits(packed, count=count).astype(bool).reshape(shape)
