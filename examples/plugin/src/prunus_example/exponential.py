"""A schedule: the same ratio in every step."""

from __future__ import annotations


def exponential(s: float, kept: float) -> float:
    """Keep the same share of what is left in equal times: k(s) = kept^s.

    Source: own.
    """
    return float(kept**s)
