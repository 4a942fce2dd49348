"""Masks of attention: padding and attention masks, bool or float, become one term that is added to the scores."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def as_scores(mask: torch.Tensor | None, name: str, dtype: torch.dtype) -> torch.Tensor | None:
    """Return a mask as a term of the scores: −∞ where a bool mask hides a key.

    Raises:
        TypeError: a mask of integers.
    """
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, float("-inf"))
    if not mask.is_floating_point():
        raise TypeError(f"{name} is of {mask.dtype}; allowed: bool (True = hidden) or floats that are added.")
    return mask.to(dtype)


def joined_mask(
    padding: torch.Tensor | None, scores: torch.Tensor | None, q: torch.Tensor, heads: int, added: int
) -> torch.Tensor | None:
    """Return both masks as one, (B or 1, H or 1, L or 1, S).

    Args:
        padding: term for each key, (B, S), or (S,) without a batch.
        scores: term for each query and key, (L, S) or (B·H, L, S).
        q: the queries, (B, H, L, D).
        heads: number of heads H.
        added: number of keys appended behind those of the masks; every query may read them.

    Raises:
        ValueError: a mask of another shape.
    """
    if scores is not None:
        if scores.dim() == 3 and scores.shape[0] != q.shape[0] * heads:
            raise ValueError(
                f"attn_mask has {scores.shape[0]} rows of heads; this attention has {heads} heads and a batch of "
                f"{q.shape[0]}: give (L, S), or ({q.shape[0] * heads}, L, S)."
            )
        if scores.dim() not in (2, 3):
            raise ValueError(f"attn_mask has {scores.dim()} dims; allowed: (L, S) or (B·heads, L, S).")
        scores = scores[None, None] if scores.dim() == 2 else scores.reshape(q.shape[0], heads, *scores.shape[1:])
    if padding is not None:
        padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        scores = padding if scores is None else scores + padding
    return None if scores is None else F.pad(scores, (0, added))
