"""Keep exactly the n best-scored weights over all tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.errors import BudgetError, OptionError
from prunus.masks.flat import check_finite
from prunus.masks.selection import comparable, find_cut, kept_by, number_of


def resolve_count(total: int, kept: float | None, keep_count: int | None) -> int:
    """Turn a kept share, or an exact count, into the number of weights to keep.

    n = ⌊kept · total⌋, where a product within rounding of an integer is that integer: 0.29 of 100 is 29.

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
    scores: Mapping[str, Tensor],
    *,
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
    within: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Keep exactly the n highest scores over all tensors together.

    Equal scores are kept in order of tensor, then of flat index. Growing n only ever adds weights.

    Args:
        scores: weight name → scores, higher = keep.
        kept: share of all weights to keep.
        keep_count: exact number to keep; give this or ``kept``.
        floor: keep the best weight of every tensor in place of the lowest of the others, so that no layer is emptied
            and the count stays exact.
        within: name → mask of the weights to choose from first; all others rank below them, whatever their score. A
            tensor that is not named takes part with all its weights.

    Returns:
        Name → boolean mask of the same shape and device, True = keep.

    Raises:
        OptionError: the budget is out of range.
        DataError: no tensors, or a score is not finite.
        BudgetError: ``floor`` needs more weights than the budget has.
    """
    check_finite(scores)
    values, live = comparable(scores), dict(within or {})
    count = resolve_count(sum(score.numel() for score in values.values()), kept, keep_count)
    filled = sum(score.numel() > 0 for score in values.values())
    if floor and count < filled:
        raise BudgetError(
            f"keeping {count} weights would empty at least {filled - count} of {filled} tensors; "
            f"keep at least {filled} or pass floor=False."
        )
    if live and count > sum(number_of(live[n]) if n in live else s.numel() for n, s in values.items()):
        values, live = _below(values, live), {}
    masks = _top(values, live, count)
    if floor and any(mask.numel() and not number_of(mask) for mask in masks.values()):
        masks = _top(_lifted(_below(values, live)), {}, count)
    return masks


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
    # Each tensor is compared in its own dtype, so that a float32 weight of 0.3 does not exceed τ = 0.3.
    masks = {name: (score.detach() > tau).contiguous() for name, score in scores.items()}
    for name, mask in masks.items():
        if floor and mask.numel() and not mask.any():
            mask.view(-1)[scores[name].detach().reshape(-1).argmax()] = True
    return masks


def _top(scores: Mapping[str, Tensor], live: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    if count == 0:
        return {name: torch.zeros(s.shape, dtype=torch.bool, device=s.device) for name, s in scores.items()}
    parts = [(score, live.get(name)) for name, score in scores.items()]
    return dict(zip(scores, kept_by(find_cut(parts, count), parts), strict=True))


def _below(scores: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return fresh scores in which excluded weights rank below all others."""
    return {n: s.masked_fill(~live[n], -math.inf) if n in live else s.clone() for n, s in scores.items()}


def _lifted(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lift, in place, the first best score of every tensor above all others."""
    for score in scores.values():
        if score.numel():
            # Indexed by coordinates, because not every layout has a flat view.
            score[torch.unravel_index(score.reshape(-1).argmax(), score.shape)] = math.inf
    return scores
