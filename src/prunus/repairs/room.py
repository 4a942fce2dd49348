"""The shares of a memory limit: values of both programs, and a layer's problem, from all of its rows or from few."""

from __future__ import annotations

from prunus.foundation.free_memory import default_memory

VALUES = 3 / 8
"""The share of the limit for the values of both programs on all samples."""
PROBLEM = 1 / 2
"""The share of the limit for the problem of one layer."""
COPIES = 6
"""Matrices over pairs of inputs that a solve holds at once: moments to fit, to check and of both, and their factor."""
FEW = 4
"""Inputs for each row of a problem that is too wide: a problem in dual form has far fewer rows than inputs."""
LEAST = 64
"""Rows of a problem at least."""


def holds_pairs(inputs: int, groups: int, memory: int) -> bool:
    """Return True if matrices over pairs of inputs of a layer fit: 8·G·D²·6 bytes within half of the limit."""
    return 8 * groups * inputs * inputs * COPIES <= PROBLEM * memory


def few_rows(inputs: int, groups: int, memory: int) -> int:
    """Return the number of rows of a problem in dual form: a quarter of its inputs, fewer where they do not fit."""
    return max(LEAST, min(inputs // FEW, int(PROBLEM * memory) // (4 * COPIES * groups * inputs)))


def room_for_values(memory: int | None = None) -> int:
    """Return the bytes that the values of both programs may take; None is the default limit."""
    return int(VALUES * (default_memory() if memory is None else memory))
