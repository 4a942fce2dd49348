"""Wanda: rank weights within a row by |w| times the norm of their input; the remaining weights do not change."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.solvers.patterns import EveryRow, Pattern
from prunus.solvers.problem import Pruned, check_count, checked


def wanda_scores(weight: Tensor, moment: Tensor) -> Tensor:
    """Score every weight: s_ij = |W_ij|·‖x_j‖₂, up to a constant factor of the layer.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    Shapes: weight (O, I), moment (I, I) → (O, I).
    """
    w, h = checked(weight, moment)
    return w.abs() * h.diagonal().clamp(min=0).sqrt()


def wanda(weight: Tensor, moment: Tensor, count: int, pattern: Pattern | None = None) -> Pruned:
    """Keep the weights of highest |w|·‖x‖₂, the same number in every row.

    Source: Sun et al., arXiv:2306.11695.

    Args:
        weight: weights of the layer.
        moment: E[xxᵀ] of its inputs, not centred; only its diagonal is read.
        count: number of weights that stay.
        pattern: `EveryRow` unless given; `NofM` ignores the count.

    Shapes: weight (O, I), moment (I, I).

    Raises:
        DataError, OptionError: as `sparsegpt`.
    """
    check_count(count, weight.numel())
    mask = (pattern or EveryRow()).mask(wanda_scores(weight, moment), count)
    return Pruned(torch.where(mask, weight.detach(), torch.zeros_like(weight)), mask)
