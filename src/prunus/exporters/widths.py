"""Widths that a config can express, as records and as an allocator: axes that shrink together, in equal steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prunus.budget.allocator import UnitProblem
from prunus.errors import BudgetError
from prunus.exporters.config_build import Path, spelled


@dataclass(frozen=True, slots=True)
class Width:
    """Axes that shrink together when numbers of the config do.

    At level s of ``steps`` each number v and each axis of size n becomes v·s/steps and n·s/steps.

    Attributes:
        fields: config path → its number now.
        axes: axis id → its size.
        steps: how many levels there are; at this one nothing is cut.
    """

    fields: Mapping[Path, int]
    axes: Mapping[str, int]
    steps: int

    def __str__(self) -> str:
        names = ", ".join(f"{spelled(p)}={v}" for p, v in self.fields.items())
        return f"{names}: {len(self.axes)} axes, in steps of 1/{self.steps}"


@dataclass(frozen=True, slots=True)
class ConfigWidths:
    """Every width of a model that its config can express; an allocator for `fit_units`."""

    widths: tuple[Width, ...]

    @property
    def axes(self) -> frozenset[str]:
        """Return the axes that may be cut."""
        return frozenset(a for w in self.widths for a in w.axes)

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Cut every width to the same share, then give back step by step what still fits.

        s_w = max(1, ⌊p·steps_w + ½⌋) with the largest p that fits, found by bisection.

        Axes outside stay whole, and so does a width of which some axis is not up for choice.

        Raises:
            BudgetError: even the smallest widths do not fit.
        """
        widths = [w for w in self.widths if problem.scores.keys() >= w.axes.keys()]
        whole = {a: len(s) for a, s in problem.scores.items()}

        def counts(levels: list[int]) -> dict[str, int]:
            return whole | {a: n * s // w.steps for w, s in zip(widths, levels, strict=True) for a, n in w.axes.items()}

        def share(p: float) -> list[int]:
            return [max(1, math.floor(p * w.steps + 0.5)) for w in widths]

        low, high = 0.0, 1.0
        if not problem.fits(counts(share(low))):
            raise BudgetError("The budget cannot be met by widths that the config can express; raise it.")
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if problem.fits(counts(share(middle))) else (low, middle)
        levels = share(low)
        # The coarsest first: the finer ones then fill what is left.
        waiting = sorted(range(len(levels)), key=lambda i: widths[i].steps)
        while waiting:
            i = waiting.pop(0)
            more = [s + (k == i) for k, s in enumerate(levels)]
            if more[i] <= widths[i].steps and problem.fits(counts(more)):
                levels = more
                waiting.append(i)
        return counts(levels)
