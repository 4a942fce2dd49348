"""Masks of the weights of a network: counts from fixed rates and from one ranking of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prunus.errors import BudgetError
from prunus.masks import Window, window_masks


@dataclass(frozen=True, slots=True)
class Part:
    """A weight of the network that is left, with what decides about it.

    Attributes:
        order: score of every weight; those of least score go first. Any shape, as all others.
        priority: worth of every weight in the ranking over the network.
        gone: weights that go in any case.
        stays: weights that stay in any case.
        fixed: the number that stays; None takes part in the ranking.
        window: the window in which its weights go; None: one by one.
        inputs: the dim of its inputs, for windows.
    """

    order: np.ndarray
    priority: np.ndarray
    gone: np.ndarray
    stays: np.ndarray
    fixed: int | None = None
    window: Window | None = None
    inputs: int = 1

    @property
    def most(self) -> int:
        """The largest number of weights that may stay."""
        return int((~self.gone).sum())

    @property
    def least(self) -> int:
        """The least number of weights that stay: those that are kept by name, and one."""
        return max(1, int((self.stays & ~self.gone).sum()))


def counts_of(parts: Mapping[str, Part], count: int, limit: str) -> dict[str, int]:
    """Return the number of weights of each part that stays, ``count`` in all where the parts allow it.

    Parts with a fixed number keep it. The others keep the weights of highest priority in one ranking, each at least
    its least.

    Raises:
        BudgetError: the fixed numbers, and the least of the others, exceed the count.
    """
    fixed = {n: min(max(p.fixed, p.least), p.most) for n, p in parts.items() if p.fixed is not None}
    open_ = {n: p for n, p in parts.items() if p.fixed is None}
    room = count - sum(fixed.values()) - sum(p.least for p in open_.values())
    if room < 0:
        others = (
            f", and the least of {len(open_)} other tensors is {sum(p.least for p in open_.values()):,}"
            if open_
            else ""
        )
        raise BudgetError(
            f"Budget {limit} leaves {count:,} weights: the settings of nodes keep {sum(fixed.values()):,}{others}. "
            "Give a larger budget, or settings of nodes that keep less."
        )
    extra = {name: np.sort(p.priority[~p.gone].reshape(-1))[::-1][p.least :] for name, p in open_.items()}
    flat = np.concatenate([np.zeros(0), *extra.values()])
    best = np.argsort(-flat, kind="stable")[:room]
    ends = np.cumsum([len(values) for values in extra.values()])
    more = np.bincount(np.searchsorted(ends, best, side="right"), minlength=len(extra))
    return fixed | {name: p.least + int(n) for (name, p), n in zip(open_.items(), more, strict=True)}


def mask_of(part: Part, count: int) -> np.ndarray:
    """Return the mask that keeps ``count`` weights of a part, those of highest order score."""
    if part.window is not None:
        # Ranks are finite, whatever is forced.
        ranks = _ranks(part)
        found = window_masks(
            {"w": torch.from_numpy(ranks)},
            part.window,
            keep_count=count,
            floor=False,
            input_dims={"w": part.inputs},
        )["w"].numpy()
        return np.asarray((found | part.stays) & ~part.gone)
    keep = np.zeros(part.order.size, bool)
    keep[np.argsort(-_ranks(part).reshape(-1), kind="stable")[:count]] = True
    return keep.reshape(part.order.shape)


def _ranks(part: Part) -> np.ndarray:
    """Return the order scores with forced weights above and below all others."""
    scores = np.asarray(part.order, float)
    span = float(scores.max() - scores.min()) + 1.0 if scores.size else 1.0
    return np.where(part.gone, scores - 2 * span, np.where(part.stays, scores + 2 * span, scores))
