"""Variable elimination: the exact minimum over widths that multiply each other in the price.

Axes that share a term of the price are neighbours. An axis is minimised over for every combination of the widths of its
neighbours and then eliminated, the one with the smallest table first; on a chain this is the Viterbi algorithm.
Source: Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence 113, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Scope = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """The order of elimination, and the neighbours of each axis when it is eliminated.

    ``cells`` is the size of the largest table, the eliminated axis included.
    """

    axes: tuple[int, ...]
    neighbours: tuple[Scope, ...]
    cells: int


def elimination_order(sizes: Sequence[int], scopes: Iterable[Scope]) -> Order:
    """Choose the order: always eliminate the axis with the smallest table."""
    near: dict[int, set[int]] = {i: set() for i in range(len(sizes))}
    for scope in scopes:
        for i in scope:
            near[i] |= set(scope) - {i}
    axes, neighbours, cells = [], [], 1

    def table(i: int) -> tuple[float, int]:
        return math.log(sizes[i]) + sum(math.log(sizes[j]) for j in near[i]), i

    while near:
        i = min(near, key=table)
        around = tuple(sorted(near.pop(i)))
        axes.append(i)
        neighbours.append(around)
        cells = max(cells, math.prod(sizes[j] for j in (i, *around)))
        for j in around:
            near[j] = (near[j] | set(around)) - {i, j}
    return Order(tuple(axes), tuple(neighbours), cells)


def minimise(order: Order, sizes: Sequence[int], factors: Iterable[tuple[Scope, np.ndarray]]) -> dict[int, int]:
    """Return the level of each axis at which the sum of all factors is least; ties take the lower level."""
    left = list(factors)
    answers: list[tuple[int, Scope, np.ndarray]] = []
    for axis, around in zip(order.axes, order.neighbours, strict=True):
        mine = [f for f in left if axis in f[0]]
        left = [f for f in left if axis not in f[0]]
        scope = (*around, axis)
        total = np.zeros([sizes[i] for i in scope])
        for own, table in mine:
            total = total + spread(own, table, scope)
        answers.append((axis, around, total.argmin(axis=-1)))
        left.append((around, total.min(axis=-1)))
    chosen: dict[int, int] = {}
    for axis, around, best in reversed(answers):
        chosen[axis] = int(best[tuple(chosen[i] for i in around)])
    return chosen


def spread(own: Scope, table: np.ndarray, scope: Scope) -> np.ndarray:
    """Return a table with its dims in the order of a larger scope, of length one in the dims that it lacks."""
    order = sorted(range(len(own)), key=lambda d: scope.index(own[d]))
    lengths: Mapping[int, int] = {own[d]: table.shape[d] for d in order}
    return table.transpose(order).reshape([lengths.get(i, 1) for i in scope])
