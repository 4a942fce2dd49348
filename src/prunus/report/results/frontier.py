"""The record of a frontier: accuracy over minutes of training, with its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prunus.errors import DataError

Interval = tuple[float, float]
Unit = Literal["steps", "minutes"]
Rule = Literal["chord", "noise"]

RULES: dict[str, str] = {
    "chord": "the point of the frontier, up to its first point that the most accurate one does not beat beyond noise, "
    "that lies farthest above the straight line from the first to the last of them, both axes scaled to 0 to 1; the "
    "last one where none lies above the line",
    "noise": "the cheapest point that the most accurate one does not beat beyond noise",
}
"""Rule → its statement. Beyond noise: the 95 % bootstrap interval of the difference, paired over the samples of the
selection split, lies above 0."""


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """One training of the pruned network from the same start, with its own budget.

    Attributes:
        amount: the budget: steps or minutes; 0 is the network before the training.
        steps, minutes: the steps and minutes of training that were spent.
        accuracy: accuracy on the selection split, which decides.
        behind: accuracy of the most accurate point less that of this one, on the selection split.
        behind_interval: the 95 % interval of this difference.
        test_accuracy: accuracy on the test split, which decides nothing; None without a test split.
        folder: the checkpoint of the network, relative to the folder of the results; empty where none is kept.

    Raises:
        DataError: a number outside its range.
    """

    amount: float
    steps: int
    minutes: float
    accuracy: float
    behind: float
    behind_interval: Interval
    test_accuracy: float | None = None
    folder: str = ""

    def __post_init__(self) -> None:
        shares = (self.accuracy, 0.0 if self.test_accuracy is None else self.test_accuracy)
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise DataError(f"frontier: accuracies of the point {self.amount:g} are {shares}, allowed 0 to 1.")
        for name in ("amount", "steps", "minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise DataError(f"frontier: {name} is {getattr(self, name)}, allowed: at least 0, finite.")
        low, high = self.behind_interval
        if not -1.0 <= low <= high <= 1.0:
            raise DataError(f"frontier: behind_interval is {[low, high]}, allowed -1 <= low <= high <= 1.")


@dataclass(frozen=True, slots=True)
class Frontier:
    """Accuracy over the time of training, and the knee, by which the balance of both is chosen.

    Attributes:
        unit: the unit of the budgets: steps or minutes.
        points: one for each budget, in growing order.
        best: the number of the most accurate point on the selection split, the cheapest where several are equal.
        knee: the number of the chosen point.
        rule: how the knee was chosen; `RULES` states it.
        samples: the number of targets in the selection split.

    Raises:
        DataError: no points, an order that does not grow, or a best or knee that does not follow from the points.
    """

    unit: Unit
    points: tuple[TrainingPoint, ...]
    best: int
    knee: int
    rule: Rule
    samples: int

    def __post_init__(self) -> None:
        amounts = [point.amount for point in self.points]
        if not amounts or amounts != sorted(set(amounts)):
            raise DataError(f"frontier: budgets are {amounts}; allowed: one or more, growing.")
        if self.best != best_of(self.points) or self.knee != knee_of(self.points, self.rule):
            raise DataError(
                f"frontier: best {self.best} and knee {self.knee} do not follow from the points by rule {self.rule!r}."
            )

    @property
    def chosen(self) -> TrainingPoint:
        """The point at the knee."""
        return self.points[self.knee]

    def __str__(self) -> str:
        return "\n".join(frontier_lines(self))


def best_of(points: Sequence[TrainingPoint]) -> int:
    """Return the number of the most accurate point, the first of equal ones."""
    return max(range(len(points)), key=lambda i: (points[i].accuracy, -i))


def front_of(points: Sequence[TrainingPoint]) -> list[int]:
    """Return the numbers of the points that no point of fewer minutes reaches in accuracy, in the order of minutes."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i].minutes, -points[i].accuracy)):
        if not front or points[i].accuracy > points[front[-1]].accuracy:
            front.append(i)
    return front


def knee_of(points: Sequence[TrainingPoint], rule: str) -> int:
    """Return the number of the knee by a rule of `RULES`.

    Example:
        >>> rising = [(0, 0.5), (1, 0.8), (2, 0.88), (4, 0.9)]
        >>> made = [TrainingPoint(m, 0, m, a, 0.9 - a, (0.9 - a, 0.9 - a)) for m, a in rising]
        >>> knee_of(made, "chord"), knee_of(made, "noise")
        (1, 3)
    """
    front = front_of(points)
    end = next((place for place, i in enumerate(front) if points[i].behind_interval[0] <= 0), len(front) - 1)
    front = front[: end + 1]
    first, last = points[front[0]], points[front[-1]]
    if rule == "noise" or len(front) < 3:
        return front[-1]
    width, height = last.minutes - first.minutes, last.accuracy - first.accuracy

    def above(i: int) -> float:
        # The distance from the chord of the unit square is this difference over √2.
        return (points[i].accuracy - first.accuracy) / height - (points[i].minutes - first.minutes) / width

    highest = max(front[1:-1], key=above)
    return highest if above(highest) > 0 else front[-1]


def frontier_lines(frontier: Frontier) -> list[str]:
    """Return a table of the points, and the rule of the knee, a line each."""
    rows = [(str(frontier.unit), "minutes of training", "accuracy (selection)", "behind the best, 95 %", "test", "")]
    for number, point in enumerate(frontier.points):
        low, high = point.behind_interval
        marks = [name for name, at in (("knee", frontier.knee), ("best", frontier.best)) if at == number]
        rows.append(
            (
                f"{point.amount:g}",
                f"{point.minutes:.2f}",
                f"{point.accuracy:.2%}",
                f"{point.behind:.2%} ({low:.2%} to {high:.2%})",
                "–" if point.test_accuracy is None else f"{point.test_accuracy:.2%}",
                ", ".join(marks),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, f"knee by rule {frontier.rule}: {RULES[frontier.rule]}"]
