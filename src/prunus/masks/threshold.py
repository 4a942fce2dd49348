"""Threshold masks: absolute, relative to each tensor, or on the gradient, with a given or a solved τ."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prunus.criteria.relative import Measure, relative_scores
from prunus.errors import OptionError
from prunus.masks.ranking import masks_above, top_masks


def absolute_masks(
    weights: Mapping[str, Tensor],
    *,
    tau: float | None = None,
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
) -> dict[str, Tensor]:
    """Keep a weight if its magnitude exceeds one threshold for the whole network: |w| > τ.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv:1506.02626.
    With ``kept`` or ``keep_count`` the threshold is the global quantile, and of the weights that equal it only as many
    stay as the count allows, in order of index: exactly n weights stay.

    Args:
        weights: name → weight.
        tau: the threshold, in units of the weights; give this, ``kept`` or ``keep_count``.
        kept: share of all weights to keep.
        keep_count: exact number of weights to keep.
        floor: a tensor that would lose everything keeps its largest weight; a solved count stays exact.

    Returns:
        Name → boolean mask of the same shape, True = keep.

    Raises:
        OptionError: not exactly one of ``tau``, ``kept``, ``keep_count``, or a value out of range.
        DataError: no tensors, or a weight is not finite.
        BudgetError: ``floor`` needs more weights than the count allows.

    Example:
        >>> absolute_masks({"w": torch.tensor([[0.1, -0.9], [0.5, 0.2]])}, kept=0.5)["w"].tolist()
        [[False, True], [True, False]]
    """
    return _masks({name: weight.detach().abs() for name, weight in weights.items()}, tau, kept, keep_count, floor)


def relative_masks(
    weights: Mapping[str, Tensor],
    *,
    scale: Measure = "max",
    tau: float | None = None,
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
) -> dict[str, Tensor]:
    """Keep a weight if it is large relative to its tensor: |w| > τ · max|W|, or |w| > τ · std(W).

    One τ serves all tensors. With ``kept`` or ``keep_count`` the exact τ is selected among the ratios.

    Args:
        weights: name → weight.
        scale: "max" for max|W|, "std" for the population standard deviation of W.
        tau: the threshold, a pure ratio; give this, ``kept`` or ``keep_count``.
        kept: share of all weights to keep.
        keep_count: exact number of weights to keep.
        floor: a tensor that would lose everything keeps its largest weight; a solved count stays exact.

    Returns:
        Name → boolean mask of the same shape, True = keep.

    Raises:
        OptionError, DataError, BudgetError: as `absolute_masks`; OptionError also for an unknown scale.
    """
    return _masks(relative_scores(weights, scale), tau, kept, keep_count, floor)


def gradient_masks(
    grad_abs: Mapping[str, Tensor],
    *,
    tau: float | None = None,
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
) -> dict[str, Tensor]:
    """Keep a weight if its gradient is large: |g| > τ, where |g| is usually E|g| over calibration batches.

    Args:
        grad_abs: name → gradient or mean absolute gradient, shaped as the weight; its sign is ignored.
        tau: the threshold, in loss per weight; give this, ``kept`` or ``keep_count``.
        kept: share of all weights to keep.
        keep_count: exact number of weights to keep.
        floor: a tensor that would lose everything keeps the weight with its largest gradient; a solved count stays
        exact.

    Returns:
        Name → boolean mask of the same shape, True = keep.

    Raises:
        OptionError, DataError, BudgetError: as `absolute_masks`.
    """
    return absolute_masks(grad_abs, tau=tau, kept=kept, keep_count=keep_count, floor=floor)


def _masks(
    scores: Mapping[str, Tensor], tau: float | None, kept: float | None, keep_count: int | None, floor: bool
) -> dict[str, Tensor]:
    if tau is None:
        return top_masks(scores, kept=kept, keep_count=keep_count, floor=floor)
    if kept is not None or keep_count is not None:
        raise OptionError(
            f"got tau={tau} with kept={kept}, keep_count={keep_count}; give exactly one of tau, kept, keep_count."
        )
    return masks_above(scores, tau, floor=floor)
