"""Normal equations of a correction to a weight: from moments or, with few rows, from the rows themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunus.errors import DataError

COLUMNS = 2048
"""Number of columns that are converted to float64 at once."""


class Normal(Protocol):
    """A system Δ (C + λI) = R that can be solved for Δ."""

    def solution(self, ridge: float, mask: Tensor | None) -> Tensor:
        """Return Δ for λ in units of the mean of diag C, zero outside a mask.

        Shapes: mask (G, O, D) bool → (G, O, D).
        """


@dataclass(frozen=True, slots=True)
class Primal:
    """The system with C and R stored. Shapes: gram (G, D, D), rest (G, O, D)."""

    gram: Tensor
    rest: Tensor

    def solution(self, ridge: float, mask: Tensor | None) -> Tensor:
        """Solve by a factorisation of C + λI; under a mask by conjugate gradients."""
        damped = self.gram.clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        diagonal += ridge * self.gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).clamp_min(1e-12)
        return solved(damped, self.rest) if mask is None else solved_on(damped, self.rest, mask)


@dataclass(frozen=True, slots=True)
class Dual:
    """The system with C = XᵀX/n and R = EᵀX/n for fewer rows than inputs: no matrix of the size of C is computed.

    Δ = Eᵀ (XXᵀ/n + λI)⁻¹ X/n, which is R (C + λI)⁻¹.

    Source: Saunders, Gammerman & Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.

    Shapes: rows (G, n, D) of any float dtype, mean (G, 1, D) which is subtracted from them, rest (G, n, O), kernel
    (G, n, n) = XXᵀ/n; float64.
    """

    rows: Tensor
    mean: Tensor
    rest: Tensor
    kernel: Tensor

    @classmethod
    def of(cls, rows: Tensor, mean: Tensor, rest: Tensor) -> Dual:
        """Return the equations of rows. Shapes: as above."""
        kernel = rest.new_zeros(len(rows), rows.shape[1], rows.shape[1])
        for start in range(0, rows.shape[2], COLUMNS):
            part = _columns(rows, mean, start)
            kernel += part @ part.mT
        return cls(rows, mean, rest, kernel / rows.shape[1])

    def solution(self, ridge: float, mask: Tensor | None) -> Tensor:
        """Solve by a factorisation of XXᵀ/n + λI; under a mask by conjugate gradients."""
        level = self.kernel.diagonal(dim1=1, dim2=2).sum(1) / self.rows.shape[2]  # the mean of diag C
        added = (ridge * level.clamp_min(1e-12))[:, None, None]
        if mask is not None:
            return self._on(mask, added)
        eye = torch.eye(self.kernel.shape[1], dtype=self.kernel.dtype, device=self.kernel.device)
        return self._to_inputs(solved(self.kernel + added * eye, self.rest.mT))

    def _on(self, mask: Tensor, added: Tensor) -> Tensor:
        starts = range(0, self.rows.shape[2], COLUMNS)
        diagonal = torch.cat([_columns(self.rows, self.mean, start).square().mean(1) for start in starts], 1)
        return conjugate_gradients(
            lambda direction: self._to_inputs(self._to_rows(direction)) + added * direction,
            diagonal.unsqueeze(1) + added,
            self._to_inputs(self.rest.mT),
            mask,
        )

    def _to_rows(self, matrix: Tensor) -> Tensor:
        """Return matrix · Xᵀ. Shapes: (G, O, D) → (G, O, n)."""
        return sum(
            (
                matrix[:, :, start : start + COLUMNS] @ _columns(self.rows, self.mean, start).mT
                for start in range(0, self.rows.shape[2], COLUMNS)
            ),
            matrix.new_zeros(*matrix.shape[:2], self.rows.shape[1]),
        )

    def _to_inputs(self, shares: Tensor) -> Tensor:
        """Return shares · X/n. Shapes: (G, O, n) → (G, O, D)."""
        parts = [shares @ _columns(self.rows, self.mean, start) for start in range(0, self.rows.shape[2], COLUMNS)]
        return torch.cat(parts, 2) / self.rows.shape[1]


def _columns(rows: Tensor, mean: Tensor, start: int) -> Tensor:
    part = slice(start, start + COLUMNS)
    return rows[:, :, part].to(mean.dtype) - mean[:, :, part]


def solved(gram: Tensor, rest: Tensor) -> Tensor:
    """Return rest · gram⁻¹ for a symmetric positive definite gram.

    Where rounding makes it indefinite, the diagonal is raised until it can be factorised.


    Shapes: gram (G, D, D), rest (G, O, D) → (G, O, D).
    Raises: DataError: gram is not finite, because squares of the data overflow.
    """
    if not bool(gram.isfinite().all()):
        raise DataError("second moments of a layer's inputs overflow; nothing can be fitted to that. Scale the data.")
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    extra = 0.0
    # Rounding may leave the covariance of constant inputs below zero: without a level above it the loop would not end.
    level = gram.diagonal(dim1=1, dim2=2).abs().mean(1).clamp_min(1e-12)[:, None, None]
    while True:
        factor, info = torch.linalg.cholesky_ex(gram + extra * level * eye)
        if not bool(info.any()):
            solution: Tensor = torch.cholesky_solve(rest.transpose(1, 2), factor).transpose(1, 2)
            return solution
        extra = max(10 * extra, 1e-10)


def solved_on(gram: Tensor, rest: Tensor, mask: Tensor) -> Tensor:
    """Return the rows Δ, zero outside the mask, with (Δ gram − rest) zero inside it.

    Shapes: gram (G, D, D), rest (G, O, D), mask (G, O, D) → (G, O, D).
    """
    return conjugate_gradients(
        lambda direction: direction @ gram, gram.diagonal(dim1=1, dim2=2).unsqueeze(1), rest, mask
    )


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    diagonal: Tensor,
    rest: Tensor,
    mask: Tensor,
    *,
    most: int = 200,
    tolerance: float = 1e-10,
) -> Tensor:
    """Return the rows Δ, zero outside the mask, with (product(Δ) − rest) zero inside it.

    All rows are solved at once, each on its own support; the diagonal is the preconditioner.

    Args:
        product: Δ → Δ gram.
        diagonal: of gram, (G, 1, D).
        rest: (G, O, D).
        mask: (G, O, D) bool.
        most: largest number of steps.
        tolerance: of the residual, relative.
    """
    kept = mask.to(rest.dtype)
    inverse = 1 / diagonal
    delta = torch.zeros_like(rest)
    residual = rest * kept
    limit = tolerance**2 * residual.square().sum(2, keepdim=True)
    preconditioned = residual * inverse
    direction = preconditioned
    energy = (residual * preconditioned).sum(2, keepdim=True)
    for _ in range(most):
        if bool((residual.square().sum(2, keepdim=True) <= limit).all()):
            break
        pushed = product(direction) * kept
        step = energy / (direction * pushed).sum(2, keepdim=True).clamp_min(1e-300)
        delta = delta + step * direction
        residual = residual - step * pushed
        preconditioned = residual * inverse
        fresh = (residual * preconditioned).sum(2, keepdim=True)
        direction = preconditioned + (fresh / energy.clamp_min(1e-300)) * direction
        energy = fresh
    return delta
