"""Keep exactly the n best-scored weights over all tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from prunus.errors import BudgetError, OptionError
from prunus.masks.flat import check_finite, flatten, unflatten


def resolve_count(total: int, kept: float | None, keep_count: int | None) -> int:
    """Turn a kept share, or an exact count, into the number of weights to keep.

    n = ⌊kept · total⌋, but a product that misses an integer by rounding alone is that integer: 0.29 of 100 is 29.

    Args:
        total: how many weights there are.
        kept: share to keep, in [0, 1].
        keep_count: number to keep, in [0, total]; give this or ``kept``.

    Raises:
        OptionError: neither or both are given, or the value is out of range.

    Example:
        >>> resolve_count(100, 0.29, None)
        29
    """
    if kept is None and keep_count is not None:
        if not 0 <= keep_count <= total:
            raise OptionError(f"keep_count is {keep_count}; allowed is 0 to {total}, the number of prunable weights.")
        return keep_count
    if kept is not None and keep_count is None:
        if not 0.0 <= kept <= 1.0:
            raise OptionError(f"kept is {kept}; allowed is 0 to 1. Give the share of weights that stays.")
        exact, nearest = kept * total, round(kept * total)
        return nearest if math.isclose(exact, nearest, rel_tol=1e-12) else math.floor(exact)
    raise OptionError(f"got kept={kept} and keep_count={keep_count}; give exactly one of the two.")


def top_masks(
    scores: Mapping[str, Tensor], *, kept: float | None = None, keep_count: int | None = None, floor: bool = True
) -> dict[str, Tensor]:
    """Keep exactly the n highest scores over all tensors together.

    Equal scores are kept in order of tensor, then of flat index. Growing n only ever adds weights.

    Args:
        scores: weight name → scores, higher = keep.
        kept: share of all weights to keep.
        keep_count: exact number to keep; give this or ``kept``.
        floor: keep the best weight of every tensor, taking its place from the least of the others, so that no layer
            is emptied and the count stays exact.

    Returns:
        Name → boolean mask of the same shape and device, True = keep.

    Raises:
        OptionError: the budget is out of range.
        DataError: no tensors, or a score is not finite.
        BudgetError: ``floor`` asks for more weights than the budget has.
    """
    flat = flatten(scores)
    count = resolve_count(flat.numel(), kept, keep_count)
    if floor:
        best = best_indices(scores)
        if count < len(best):
            raise BudgetError(
                f"keeping {count} weights would empty at least {len(best) - count} of {len(best)} tensors; "
                f"keep at least {len(best)} or pass floor=False."
            )
        flat[best] = math.inf
    return unflatten(_top(flat, count), scores)


def masks_above(scores: Mapping[str, Tensor], tau: float, *, floor: bool = True) -> dict[str, Tensor]:
    """Keep every score strictly above τ: s > τ.

    Args:
        scores: weight name → scores, higher = keep.
        tau: the threshold, in units of the score.
        floor: keep the best weight of a tensor that would otherwise lose everything.

    Raises:
        OptionError: τ is NaN.
        DataError: no tensors, or a score is not finite.
    """
    if math.isnan(tau):
        raise OptionError("tau is NaN; allowed is any number. Give a threshold in units of the score.")
    check_finite(scores)
    # Each tensor compares in its own dtype, so that a float32 weight of 0.3 does not exceed τ = 0.3.
    masks = {name: (score.detach() > tau).contiguous() for name, score in scores.items()}
    for name, mask in masks.items():
        if floor and mask.numel() and not mask.any():
            mask.view(-1)[scores[name].detach().reshape(-1).argmax()] = True
    return masks


def solve_tau(scores: Mapping[str, Tensor], keep_count: int) -> float:
    """Return the smallest score τ that leaves at most ``keep_count`` weights with s > τ.

    τ is the (n+1)-th largest score, so it is a value that occurs; minus infinity where everything is kept.

    Raises:
        OptionError: ``keep_count`` is out of range.
        DataError: no tensors, or a score is not finite.
    """
    flat = flatten(scores)
    count = resolve_count(flat.numel(), None, keep_count)
    if count == flat.numel():
        return -math.inf
    return float(torch.kthvalue(flat, flat.numel() - count).values)


def best_indices(scores: Mapping[str, Tensor]) -> list[int]:
    """Return, for each non-empty tensor, the flat position of its first highest score among all scores joined."""
    return [
        start + int(score.detach().reshape(-1).argmax())
        for start, score in zip(_starts(scores.values()), scores.values(), strict=True)
        if score.numel()
    ]


def _starts(tensors: Iterable[Tensor]) -> list[int]:
    starts, position = [], 0
    for tensor in tensors:
        starts.append(position)
        position += tensor.numel()
    return starts


def _top(flat: Tensor, count: int) -> Tensor:
    if count == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    # Selecting the n-th value and filling ties is linear; a stable sort of all weights is not.
    least = torch.kthvalue(flat, flat.numel() - count + 1).values
    mask = flat > least
    ties = (flat == least).nonzero().reshape(-1)
    mask[ties[: count - int(mask.sum())]] = True
    return mask
