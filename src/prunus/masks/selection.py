"""Find the n-th best of many scores in a few passes over tensors that stay on their devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_EVERY = 127
"""The sample takes one score in so many; a prime, so that rows of usual lengths do not align with it."""
_FEW = 1 << 16
_DEVIATIONS = 5.0

Parts = Sequence[tuple[Tensor, Tensor | None]]
"""Tensors of scores, each with the mask of the scores that take part; None where all do."""


@dataclass(frozen=True, slots=True)
class Cut:
    """All scores above ``least`` stay, and the first ``ties`` that equal it; ``whole``: these are all that equal it."""

    least: float
    ties: int
    whole: bool


def comparable(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores in one dtype that represents all of them exactly; a tensor in this dtype is not copied."""
    short = (torch.float16, torch.bfloat16, torch.float32)
    kind = torch.float32 if all(score.dtype in short for score in scores.values()) else torch.float64
    return {name: score.detach().to(kind) for name, score in scores.items()}


def find_cut(parts: Parts, count: int) -> Cut:
    """Return the cut that leaves exactly ``count`` scores, 1 ≤ count ≤ those that take part.

    A sample gives two values that bracket the n-th best almost surely; it is then selected among the scores between
    them. Where the bracket misses it, all scores are searched.
    """
    low, high = _bracket(parts, count)
    cut = _cut_between(parts, count, low, high) or _cut_between(parts, count, -math.inf, math.inf)
    assert cut is not None
    return cut


def kept_by(cut: Cut, parts: Parts) -> list[Tensor]:
    """Return a mask for each tensor, True = stays; ties are settled by order of tensor, then of flat index."""
    if cut.whole:
        return [_among(score >= cut.least, live).contiguous() for score, live in parts]
    left, masks = cut.ties, []
    for score, live in parts:
        mask = _among(score > cut.least, live).contiguous()
        if left:
            equal = _among(score == cut.least, live)
            # Counting ties is several times as fast as listing them, and most tensors have none.
            if number_of(equal):
                first = equal.reshape(-1).nonzero().reshape(-1)[:left]
                mask.view(-1)[first] = True
                left -= len(first)
        masks.append(mask)
    return masks


def number_of(mask: Tensor) -> int:
    """Count the True entries."""
    return int(torch.count_nonzero(mask))


def _bracket(parts: Parts, count: int) -> tuple[float, float]:
    total = sum(score.numel() for score, _ in parts)
    if total < _FEW:
        return -math.inf, math.inf
    sample = torch.cat([_sampled(score, live) for score, live in parts])
    live = sum(score.numel() if mask is None else number_of(mask) for score, mask in parts)
    n, share = len(sample), count / live
    if n == 0:
        return -math.inf, math.inf
    width = _DEVIATIONS * math.sqrt(n * share * (1 - share)) + 16
    low, high = math.floor((1 - share) * n - width), math.ceil((1 - share) * n + width)
    return (
        float(torch.kthvalue(sample, low).values) if low >= 1 else -math.inf,
        float(torch.kthvalue(sample, high).values) if high <= n else math.inf,
    )


def _sampled(score: Tensor, live: Tensor | None) -> Tensor:
    sample = _line(score)[::_EVERY]
    # A mask may have another memory layout than its scores; both must be read in the same order.
    return (sample if live is None else sample[live.permute(_order(score)).reshape(-1)[::_EVERY]]).cpu()


def _line(score: Tensor) -> Tensor:
    """Return all values in memory order, without a copy."""
    return score.permute(_order(score)).reshape(-1)


def _order(score: Tensor) -> list[int]:
    return sorted(range(score.dim()), key=score.stride, reverse=True)


def _cut_between(parts: Parts, count: int, low: float, high: float) -> Cut | None:
    """Return the cut if it lies in [low, high], else None."""
    above, pieces = 0, []
    for score, live in parts:
        chosen = _among(score > low, live)
        above += number_of(chosen)
        pieces.append(score[chosen.logical_and_(score < high)].cpu())
    inside = torch.cat(pieces)
    above -= len(inside)
    if count <= above:
        return _cut_at(high, count, sum(number_of(_among(score > high, live)) for score, live in parts), above)
    rank = count - above
    if rank <= len(inside):
        least = float(torch.kthvalue(inside, len(inside) - rank + 1).values)
        over = above + number_of(inside > least)
        return _cut_at(least, count, over, over + number_of(inside == least))
    over = above + len(inside)
    return _cut_at(low, count, over, over + sum(number_of(_among(score == low, live)) for score, live in parts))


def _cut_at(value: float, count: int, over: int, least: int) -> Cut | None:
    """Return the cut at a value with ``over`` scores above and ``least`` at or above; None if it is not the cut."""
    return Cut(value, count - over, count == least) if over < count <= least else None


def _among(found: Tensor, live: Tensor | None) -> Tensor:
    """Exclude, in place, scores that take no part."""
    return found if live is None else found.logical_and_(live)
