"""The best weights on a given mask: one least squares problem a row, solved many rows at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.solvers.problem import checked, damped, factor

_VALUES = 2**24
"""Entries of the matrices that are solved at once: 128 MiB in float64."""


def refit(weight: Tensor, moment: Tensor, mask: Tensor, *, damping: float = 0.0) -> Tensor:
    """Return the weights on a mask that best reproduce the layer's output.

    ŵ_S = (H_SS)⁻¹ H_S: w for every row with support S: the minimum of (w−ŵ)ᵀH(w−ŵ) over all ŵ that vanish off S.
    Rows that share a support are solved with one factorisation, the others in batches of similar size.

    Args:
        weight: weights of the dense layer.
        moment: E[xxᵀ] of its inputs; a covariance where the bias is refitted too.
        mask: True = may be nonzero; (I,) where all rows have the same support.
        damping: ridge on the *change* of the weights, as a share of the mean of the diagonal of H.

    Shapes: weight (O, I), mask (O, I) or (I,), moment (I, I) → (O, I), in the dtype of ``weight``.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
        OptionError: negative damping.
    """
    w, h = checked(weight, moment)
    if mask.shape not in (w.shape, w.shape[1:]):
        raise DataError(
            f"the mask has shape {tuple(mask.shape)}, the weight {tuple(w.shape)}; allowed is that, or one of its rows."
        )
    h = damped(h, damping)
    target = w @ h
    solution = torch.zeros_like(w)
    if mask.dim() == 1:
        supports, owner = mask[None], torch.zeros(len(w), dtype=torch.int64, device=w.device)
    else:
        supports, owner = torch.unique(mask, dim=0, return_inverse=True)
    if mask.dim() == 1 or len(supports) * 4 <= len(w):
        for i, support in enumerate(supports):
            rows = (owner == i).nonzero().reshape(-1)
            _solve_shared(solution, h, target, rows, support.nonzero().reshape(-1))
    else:
        _solve_rows(solution, h, target, mask)
    return solution.to(weight.dtype)


def _solve_shared(solution: Tensor, h: Tensor, target: Tensor, rows: Tensor, support: Tensor) -> None:
    if len(support):
        lower = factor(h[support][:, support])
        solved = torch.cholesky_solve(target[rows][:, support].T, lower).T
        solution[rows[:, None], support] = solved


def _solve_rows(solution: Tensor, h: Tensor, target: Tensor, mask: Tensor) -> None:
    """Solve rows of similar support sizes at once; smaller problems are padded with the identity."""
    sizes = mask.sum(1)
    order = torch.argsort(sizes, descending=True)
    start = 0
    while start < len(order) and int(sizes[order[start]]):
        widest = int(sizes[order[start]])
        rows = order[start : start + max(1, _VALUES // widest**2)]
        rows = rows[sizes[rows] > 0]
        # A stable sort moves the columns of the support to the front, in their order.
        columns = torch.argsort(mask[rows].int(), dim=1, descending=True, stable=True)[:, :widest]
        real = torch.arange(widest, device=h.device) < sizes[rows][:, None]
        system = h[columns[:, :, None], columns[:, None, :]] * (real[:, :, None] & real[:, None, :])
        system.diagonal(dim1=1, dim2=2).add_((~real).to(h.dtype))
        right = target[rows].gather(1, columns) * real
        lower, info = torch.linalg.cholesky_ex(system)
        for i in info.nonzero().reshape(-1).tolist():
            lower[i] = factor(system[i])
        solved = torch.cholesky_solve(right[:, :, None], lower)[:, :, 0] * real
        solution[rows] = torch.zeros_like(solution[rows]).scatter_add_(1, columns, solved)
        start += len(rows)
