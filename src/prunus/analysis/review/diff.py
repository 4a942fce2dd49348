"""Two plans side by side: the decisions that differ, and the difference in price."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from prunus.errors import PlanError
from prunus.plans import Cost, Plan


@dataclass(frozen=True, slots=True)
class AxisChange:
    """One axis that the plans cut differently; ``size`` is its width in the model.

    Attributes:
        kept: units kept by the first and by the second plan.
        only_first, only_second: units that one of them keeps and the other removes.
    """

    axis: str
    size: int
    kept: tuple[int, int]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """The differences between two plans for one model; all empty where they cut alike."""

    axes: tuple[AxisChange, ...]
    drops_first: tuple[str, ...]
    drops_second: tuple[str, ...]
    masks: tuple[tuple[str, int | None, int | None], ...]
    after: tuple[Cost | None, Cost | None]

    @property
    def is_empty(self) -> bool:
        """Return whether both plans give the same network."""
        return not (self.axes or self.drops_first or self.drops_second or self.masks)


def diff_plans(first: Plan, second: Plan) -> PlanDiff:
    """Compare two plans for the same model.

    Raises:
        PlanError: the plans were made for different models.
    """
    if first.fingerprint != second.fingerprint:
        raise PlanError(
            f"The plans are for different models: fingerprints {first.fingerprint} and {second.fingerprint}; "
            "only plans of one model can be compared."
        )
    changes = []
    for axis in _names(first.axes, second.axes):
        masks = [p.axes.get(axis) for p in (first, second)]
        size = next(len(m) for m in masks if m is not None)
        a, b = (np.ones(size, bool) if m is None else m for m in masks)
        if not np.array_equal(a, b):
            only = tuple(tuple(int(i) for i in np.flatnonzero(x & ~y)) for x, y in ((a, b), (b, a)))
            changes.append(AxisChange(axis, size, (int(a.sum()), int(b.sum())), *only))
    ours, theirs = ({d.label: (d.join, d.operand) for d in p.drops} for p in (first, second))
    return PlanDiff(
        axes=tuple(changes),
        drops_first=tuple(label for label, place in ours.items() if place not in theirs.values()),
        drops_second=tuple(label for label, place in theirs.items() if place not in ours.values()),
        masks=tuple(_mask_changes(first, second)),
        after=(first.after, second.after),
    )


def _mask_changes(first: Plan, second: Plan) -> Iterable[tuple[str, int | None, int | None]]:
    for name in _names(first.masks, second.masks):
        a, b = (p.masks.get(name) for p in (first, second))
        if a is None or b is None or not np.array_equal(a, b):
            yield name, None if a is None else int(a.sum()), None if b is None else int(b.sum())


def _names(*maps: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for names in maps for name in names))
