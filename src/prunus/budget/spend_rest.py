"""Spend the rest of a budget: axes get units back one by one where they still fit."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.budget.allocator import UnitProblem

_TRIES = 150


def top_up(problem: UnitProblem, counts: dict[str, int], order: Sequence[str]) -> dict[str, int]:
    """Return counts with more units, axis after axis in ``order``, in rounds, until none fits or the trials end.

    The number of trials is bounded, so that wide networks do not take long for the last unit.
    """
    counts, tries, grew = dict(counts), 0, True
    while grew and tries < _TRIES:
        grew = False
        for axis in order:
            higher = problem.above(axis, counts[axis], max(1, len(problem.scores[axis]) // 32))
            if higher is None or tries >= _TRIES:
                continue
            tries += 1
            more = counts | {axis: higher}
            if problem.fits(more):
                counts, grew = more, True
    return counts
