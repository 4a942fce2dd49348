"""Whole windows of several weights, and what a budget leaves over given to the best windows that are open."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.errors import BudgetError


def room_for_one(counts: Mapping[str, int], sizes: Mapping[str, int], window: int) -> dict[str, int]:
    """Raise every layer's count to one window, or to the whole layer where that is less, at the cost of the largest.

    Args:
        counts: layer → how many weights stay.
        sizes: layer → how many there are.
        window: weights of a window.

    Raises:
        BudgetError: one window a layer is more than all counts together.
    """
    least = {name: min(window, size) for name, size in sizes.items()}
    total, needed = sum(counts.values()), sum(least.values())
    if needed > total:
        raise BudgetError(
            f"keeping {total:,} weights is less than one window of {window} in each of {len(sizes)} weights, "
            f"{needed:,} in all; keep more, or take a method of single weights."
        )
    found = {name: max(count, least[name]) for name, count in counts.items()}
    over = sum(found.values()) - total
    while over:
        name = max(found, key=lambda name: found[name] - least[name])
        taken = min(over, max(1, (found[name] - least[name]) // 2))
        found[name], over = found[name] - taken, over - taken
    return found


def best_windows(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Keep the windows of highest mean score that ``count`` weights hold; equal ones by their number.

    Shapes: scores, labels of one shape → bool mask of that shape.
    """
    return completed({"": torch.zeros_like(labels, dtype=torch.bool)}, {"": labels}, {"": scores}, count, whole=True)[
        ""
    ]


def completed(
    masks: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
    count: int,
    *,
    whole: bool = False,
) -> dict[str, Tensor]:
    """Add the open windows of highest mean score until ``count`` weights stay; the last is kept in part.

    Args:
        masks: name → what stays already, whole windows.
        labels: name → number of the window that each weight lies in, from 0 without gaps.
        scores: name → scores that serve all layers; higher = keep.
        count: how many weights stay in the end.
        whole: leave the window out that does not fit: at most ``count``.

    Shapes: all of a name alike.
    """
    flat = torch.cat([scores[name].detach().reshape(-1).double().cpu() for name in masks])
    mask = torch.cat([kept.reshape(-1) for kept in masks.values()]).clone()
    numbers, start = [], 0
    for name in masks:
        numbers.append(labels[name].reshape(-1) + start)
        start += int(labels[name].max()) + 1 if labels[name].numel() else 0
    window = torch.cat(numbers)
    sizes = torch.bincount(window, minlength=start)
    means = torch.zeros(start, dtype=torch.float64).index_add_(0, window, flat) / sizes
    means[window[mask]] = -torch.inf  # no longer open
    order = torch.argsort(means, descending=True, stable=True)
    order = order[: int((means > -torch.inf).sum())]
    left = count - int(mask.sum())
    fits = int((torch.cumsum(sizes[order], 0) <= left).sum())
    taken = torch.zeros(start, dtype=torch.bool)
    taken[order[:fits]] = True
    mask |= taken[window]
    left = count - int(mask.sum())
    if left and not whole and fits < len(order):
        members = (window == order[fits]).nonzero().reshape(-1)
        mask[members[torch.argsort(flat[members], descending=True, stable=True)[:left]]] = True
    parts = torch.split(mask, [kept.numel() for kept in masks.values()])
    return {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}
