"""The words and entries of plans whose budget counts or compares."""

from __future__ import annotations

import math
from typing import Any

from prunus.budget.counts import Amount, Count, Threshold
from prunus.methods.method import Method


def reason_of(scores: str, count: Count, amount: Amount | None) -> str:
    """Return the reason of a decision: the score, and the budget or the threshold."""
    return f"{scores} {amount.removes}" if isinstance(amount, Threshold) else f"lowest {scores} ({count})"


def number_of(amount: Any) -> float | int:
    """Return an amount that is no threshold: a share or a number."""
    assert isinstance(amount, (int, float))
    return amount


def scored_by(chosen: Method, criterion: str) -> dict[str, Any]:
    """Return the entry of the criterion in a plan's settings, where it is an option of the method."""
    return {"criterion": criterion} if chosen.options else {}


def counted(kind: str, kept: int, total: int, note: str = "") -> dict[str, Any]:
    """Return the entry ``counted`` of a plan's settings."""
    return {"kind": kind, "kept": kept, "of": total} | ({"note": note} if note else {})


def rounded_up(count: Count, number: int, total: int) -> str:
    """Return a line where a share is less than one part, and one stays all the same; else an empty text."""
    if number >= 1:
        return ""
    least = math.ceil(1e4 / total) / 1e4
    return (
        f"budget {count} is less than one of {total} {count.metric}, and one stays: {1 / total:.1%} of them. The "
        f"nearest share that is met exactly is {least:g}."
    )
