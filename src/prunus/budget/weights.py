"""Allocators of single weights: uniform, global, ERK and LAMP counts of each tensor, exact to the weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from prunus.budget.proportional import erk_counts
from prunus.criteria.lamp import lamp_scores
from prunus.errors import BudgetError
from prunus.foundation.registry import Registry

Scores = Mapping[str, np.ndarray]
WeightAllocator = Callable[[Scores, int], dict[str, int]]

WEIGHT_ALLOCATORS: Registry[WeightAllocator] = Registry("weight_allocator")


def fit_weights(scores: Scores, keep_count: int, allocator: str = "global") -> dict[str, np.ndarray]:
    """Keep exactly ``keep_count`` weights, in each tensor those with the highest scores.

    Args:
        scores: tensor name → one score a weight, of the shape of the tensor; ties keep the lower index.
        keep_count: number of weights that stay, over all tensors.
        allocator: ``global``, ``uniform``, ``erk``, ``lamp``, or an enrolled name.

    Returns:
        Tensor name → bool keep mask of its shape.

    Raises:
        BudgetError: more weights than there are.
        OptionError: an unknown allocator.
    """
    total = sum(s.size for s in scores.values())
    if not 0 <= keep_count <= total:
        raise BudgetError(f"keep_count is {keep_count:,}; allowed: 0 to {total:,}, all weights there are.")
    counts = WEIGHT_ALLOCATORS.get(allocator)(scores, keep_count)
    masks = {}
    for name, score in scores.items():
        flat = np.zeros(score.size, bool)
        flat[np.argsort(-score.reshape(-1), kind="stable")[: counts[name]]] = True
        masks[name] = flat.reshape(score.shape)
    return masks


@WEIGHT_ALLOCATORS.register("uniform")
def uniform_counts(scores: Scores, keep_count: int) -> dict[str, int]:
    """Keep the same share of every tensor; the largest remainders are rounded up.

    Source: own.
    """
    total = max(1, sum(s.size for s in scores.values()))
    exact = {name: keep_count * s.size / total for name, s in scores.items()}
    counts = {name: math.floor(x + 1e-9) for name, x in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: keep_count - sum(counts.values())]:
        counts[name] += 1
    return counts


@WEIGHT_ALLOCATORS.register("global")
def global_counts(scores: Scores, keep_count: int) -> dict[str, int]:
    """Rank all weights of the network in one list.

    Source: own; one threshold for all weights: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.
    """
    flat = np.concatenate([np.zeros(0), *(s.reshape(-1) for s in scores.values())])
    best = np.argsort(-flat, kind="stable")[:keep_count]
    ends = np.cumsum([s.size for s in scores.values()])
    counts = np.bincount(np.searchsorted(ends, best, side="right"), minlength=len(scores))
    return {name: int(n) for name, n in zip(scores, counts, strict=True)}


@WEIGHT_ALLOCATORS.register("lamp")
def lamp_counts(scores: Scores, keep_count: int) -> dict[str, int]:
    """Rank all weights by s² over the sum of s² of those of their tensor that are at least as large (`lamp_scores`).

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv:2010.07611.
    """
    return global_counts({name: lamp_scores(s) for name, s in scores.items()}, keep_count)


@WEIGHT_ALLOCATORS.register("erk")
def erk_shares(scores: Scores, keep_count: int) -> dict[str, int]:
    """Keep of each tensor a share in proportion to Σ dims / Π dims (`erk_counts`).

    Source: Evci et al., "Rigging the lottery", arXiv:1911.11134.
    """
    return erk_counts({name: s.shape for name, s in scores.items()}, keep_count)
