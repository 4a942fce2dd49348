"""Whole windows of several weights; the rest of a budget goes to the best masked windows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.errors import BudgetError


def room_for_one(counts: Mapping[str, int], sizes: Mapping[str, int], window: int) -> dict[str, int]:
    """Raise every layer's count to one window, or to the whole layer where that is less, at the expense of the largest.

    Args:
        counts: layer → number of weights that stay.
        sizes: layer → number of weights.
        window: number of weights of a window.

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
    raised = {name: max(count, least[name]) for name, count in counts.items()}
    over = sum(raised.values()) - total
    while over:
        name = max(raised, key=lambda name: raised[name] - least[name])
        taken = min(over, max(1, (raised[name] - least[name]) // 2))
        raised[name], over = raised[name] - taken, over - taken
    return raised


def best_windows(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Keep the windows of highest mean score that fit into ``count`` weights; ties keep the lower window number.

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
    """Add the masked windows of highest mean score until ``count`` weights stay; the last is kept in part.

    Args:
        masks: name → mask of whole windows that stay already.
        labels: name → window number of each weight, from 0 without gaps.
        scores: name → scores that are comparable between layers; higher = keep.
        count: number of weights that stay in the end.
        whole: leave out the window that does not fit: at most ``count`` weights.

    Shapes: equal for each name.
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
    means[window[mask]] = -torch.inf  # stays already
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
