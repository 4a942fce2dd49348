"""Ranges of indices as text, such as ``0-3,6``."""

from __future__ import annotations


def count_of(ranges: str) -> int:
    """Return how many indices ranges name; what is no range counts as nothing, and is refused where it is read."""
    found = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and len(first) < 20 and (not last or (last.isdecimal() and len(last) < 20)):
            found += max(0, int(last or first) - int(first) + 1)
    return found
