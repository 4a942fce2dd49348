"""Frontiers: the least damage for every price, and the join of two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CAP = 2048
"""The most points of a frontier; above it, points between others are left out, never moved."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """Points of price and damage, none of which is both cheaper and better than another.

    Attributes:
        cost: int64, strictly ascending.
        damage: strictly descending.
        exact: no point was left out.
    """

    cost: np.ndarray
    damage: np.ndarray
    exact: bool = True

    @staticmethod
    def start() -> Frontier:
        """Return the frontier of no decision: one point of price 0 and damage 0."""
        return Frontier(np.zeros(1, np.int64), np.zeros(1))

    def __len__(self) -> int:
        return len(self.cost)


def join(
    left: Frontier, cost: np.ndarray, damage: np.ndarray, most: int | None, cap: int
) -> tuple[Frontier, np.ndarray, np.ndarray]:
    """Join a frontier with a choice: f(c) = min over i of left(c − cost_i) + damage_i, a (min,+) convolution.

    Args:
        left: frontier of the decisions so far.
        cost, damage: price and damage of each option of the choice.
        most: points above this price are left out; None keeps all.
        cap: the most points that stay.

    Returns:
        The joint frontier, and for each of its points the point of ``left`` and the option that give it.
    """
    costs = (left.cost[None, :] + cost[:, None]).reshape(-1)
    damages = (left.damage[None, :] + damage[:, None]).reshape(-1)
    index = survivors(costs, damages, most)
    kept = thin(costs[index], cap)
    exact = left.exact and len(kept) == len(index)
    index = index[kept]
    return Frontier(costs[index], damages[index], exact), index % len(left), index // len(left)


def survivors(cost: np.ndarray, damage: np.ndarray, most: int | None = None) -> np.ndarray:
    """Return the indices of the points that no other one dominates, by ascending price."""
    order = np.lexsort((damage, cost))
    if most is not None:
        order = order[: int(np.searchsorted(cost[order], most, side="right"))]
    if not len(order):
        return order
    best = np.minimum.accumulate(damage[order])
    return np.asarray(order[np.append(True, best[1:] < best[:-1])])


def thin(cost: np.ndarray, cap: int) -> np.ndarray:
    """Return the indices of at most ``cap`` points: the cheapest, and the last of each of equal intervals of price."""
    if len(cost) <= cap:
        return np.arange(len(cost))
    low, span = int(cost[0]), int(cost[-1]) - int(cost[0])
    bucket = ((cost - low).astype(float) / span * (cap - 1)).astype(np.int64)
    last = np.append(bucket[1:] != bucket[:-1], True)
    last[0] = True
    return np.flatnonzero(last)
