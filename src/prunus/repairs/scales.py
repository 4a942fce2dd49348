"""One scale for each input unit of a layer: the smallest change that a repair can make to its weight."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.repairs.moments import Moments
from prunus.repairs.normal_equations import solved
from prunus.repairs.refold import Fit, refold

WIDEST = 16384
"""Largest number of inputs of a group for which a matrix over pairs of them is computed: 2 GiB in float64."""


def rescale(matrix: Tensor, bias: Tensor, fit: Moments, check: Moments | None, *, shifts: bool, positions: int) -> Fit:
    """Return W·diag(s) and its bias.

    s minimises E‖t − W diag(s) x‖²: (WᵀW ∘ C) s = diag(Wᵀ C_tx), summed over the kernel positions of a channel. In a
    layer with more than `WIDEST` inputs only the bias is corrected, because C would fill the memory.

    Source: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", arXiv:2204.09656.

    Args:
        matrix: (G, O, D).
        bias: (G, O).
        fit, check: moments; ``check`` judges whether the scales help.
        shifts: the layer can shift its outputs.
        positions: number of inputs of a group that belong to one channel.
    """
    if matrix.shape[2] > WIDEST:
        return refold(matrix, bias, fit, check, shifts=shifts, grid=())
    judge = check if check is not None else fit
    variance = float(judge.target_variance().sum()) + 1e-30
    before = float(judge.error(matrix, bias).sum()) / variance
    scales = _scales(matrix, fit, shifts, positions)
    scaled = matrix * scales
    after = float(judge.error(scaled, _shift(scaled, bias, fit, shifts)).sum()) / variance
    kept = float(judge.error(matrix, _shift(matrix, bias, fit, shifts)).sum()) / variance
    whole = fit if check is None else fit + check
    if after < min(before, kept):
        final = matrix * _scales(matrix, whole, shifts, positions)
        return Fit(final, _shift(final, bias, whole, shifts), 0.0, before, after)
    if kept < before:
        return Fit(matrix, _shift(matrix, bias, whole, shifts), None, before, kept)
    return Fit(matrix, bias, None, before, before)


def _scales(matrix: Tensor, moments: Moments, shifts: bool, positions: int) -> Tensor:
    gram = moments.covariance() if shifts else moments.second
    cross = moments.cross_covariance() if shifts else moments.cross
    groups, _, inputs = matrix.shape
    channels = inputs // positions
    square = (matrix.transpose(1, 2) @ matrix * gram).reshape(groups, channels, positions, channels, positions)
    square = square.sum((2, 4))
    target = (matrix * cross).sum(1).reshape(groups, 1, channels, positions).sum(3)
    level = square.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    damped = square + 1e-3 * level[:, None, None] * torch.eye(channels, dtype=gram.dtype, device=gram.device)
    # Ridged towards 1: a unit without variance keeps its scale.
    scales = 1 + solved(damped, target - square.sum(2).unsqueeze(1))
    return scales.repeat_interleave(positions, 2)


def _shift(matrix: Tensor, bias: Tensor, moments: Moments, shifts: bool) -> Tensor:
    if not shifts:
        return bias
    return moments.target - (matrix @ moments.mean.unsqueeze(2)).squeeze(2)
