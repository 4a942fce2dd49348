"""Variable elimination with a budget: a frontier of price and damage for every combination of neighbouring widths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prunus.budget.elimination import Order, Scope
from prunus.budget.frontier import Frontier, survivors, thin


@dataclass(frozen=True, slots=True)
class Message:
    """The result of eliminating one axis: a frontier for each combination of its neighbours' levels.

    Attributes:
        axis, around: the eliminated axis, and its neighbours at that time.
        used: the earlier messages that it combines.
        points: levels of ``around`` → frontier.
        choices: levels of ``around`` → for each point, the level of the axis and the point of each used message.
    """

    axis: int
    around: Scope
    used: tuple[Message, ...]
    points: Mapping[tuple[int, ...], Frontier]
    choices: Mapping[tuple[int, ...], np.ndarray]


def work(order: Order, sizes: Sequence[int]) -> int:
    """Return an upper bound of the number of joins of frontiers."""
    return sum(
        math.prod(sizes[j] for j in (i, *around)) for i, around in zip(order.axes, order.neighbours, strict=True)
    )


def eliminate(
    order: Order,
    damage: Sequence[np.ndarray],
    prices: Mapping[Scope, np.ndarray],
    budget: int | None,
    cap: int,
) -> tuple[Frontier, list[Message]]:
    """Return the frontier of the network, and the messages from which the widths of each of its points follow.

    Args:
        order: order of elimination.
        damage: for each axis, the damage of each level.
        prices: scope → price of each combination, integers ≥ 0; the empty scope is the constant.
        budget: points beyond it are left out.
        cap: the most points of a frontier; the answer is exact while none reaches it.
    """
    waiting: list[Message] = []
    rest = dict(prices)
    constant = int(rest.pop((), np.zeros((), np.int64)))
    room = None if budget is None else budget - constant
    roots: list[Message] = []
    for axis, around in zip(order.axes, order.neighbours, strict=True):
        tables = [(scope, rest.pop(scope)) for scope in list(rest) if axis in scope]
        used = tuple(m for m in waiting if axis in m.around)
        waiting = [m for m in waiting if axis not in m.around]
        message = _message(axis, around, damage, tables, used, room, cap)
        (waiting if around else roots).append(message)
    total, choices = Frontier(np.array([constant]), np.zeros(1)), np.zeros((1, 0), np.int64)
    for message in roots:
        total, choices = _combine(total, choices, message.points[()], budget, cap)
    return total, [*roots, Message(-1, (), tuple(roots), {(): total}, {(): _with_level(0, choices)})]


def levels_of(messages: Sequence[Message], point: int) -> dict[int, int]:
    """Return the level of each axis at a point of the whole frontier."""
    chosen: dict[int, int] = {}
    todo: list[tuple[Message, int]] = [(messages[-1], point)]
    while todo:
        message, index = todo.pop()
        row = message.choices[tuple(chosen[i] for i in message.around)][index]
        if message.axis >= 0:
            chosen[message.axis] = int(row[0])
        todo.extend(zip(message.used, (int(x) for x in row[1:]), strict=True))
    return chosen


def _message(
    axis: int,
    around: Scope,
    damage: Sequence[np.ndarray],
    tables: Iterable[tuple[Scope, np.ndarray]],
    used: tuple[Message, ...],
    room: int | None,
    cap: int,
) -> Message:
    given = list(tables)
    points, choices = {}, {}
    for levels in itertools.product(*(range(len(damage[i])) for i in around)):
        at = dict(zip(around, levels, strict=True))
        parts, origins = [], []
        for level in range(len(damage[axis])):
            at[axis] = level
            price = sum(int(table[tuple(at[i] for i in scope)]) for scope, table in given)
            start = Frontier(np.array([price], np.int64), np.array([float(damage[axis][level])]))
            choice = np.zeros((1, 0), np.int64)
            for message in used:
                start, choice = _combine(start, choice, message.points[tuple(at[i] for i in message.around)], room, cap)
            parts.append(start)
            origins.append(_with_level(level, choice))
        points[levels], choices[levels] = _best_of(parts, origins, room, cap)
    return Message(axis, around, used, points, choices)


def _best_of(
    parts: Sequence[Frontier], origins: Sequence[np.ndarray], room: int | None, cap: int
) -> tuple[Frontier, np.ndarray]:
    cost = np.concatenate([f.cost for f in parts])
    damage = np.concatenate([f.damage for f in parts])
    index = survivors(cost, damage, room)
    kept = thin(cost[index], cap)
    exact = all(f.exact for f in parts) and len(kept) == len(index)
    index = index[kept]
    return Frontier(cost[index], damage[index], exact), np.concatenate(list(origins))[index]


def _combine(
    left: Frontier, choices: np.ndarray, right: Frontier, most: int | None, cap: int
) -> tuple[Frontier, np.ndarray]:
    cost = (left.cost[:, None] + right.cost[None, :]).reshape(-1)
    damage = (left.damage[:, None] + right.damage[None, :]).reshape(-1)
    index = survivors(cost, damage, most)
    kept = thin(cost[index], cap)
    exact = left.exact and right.exact and len(kept) == len(index)
    index = index[kept]
    rows, columns = index // max(1, len(right)), index % max(1, len(right))
    return Frontier(cost[index], damage[index], exact), np.concatenate([choices[rows], columns[:, None]], axis=1)


def _with_level(level: int, choices: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((len(choices), 1), level, np.int64), choices], axis=1)
