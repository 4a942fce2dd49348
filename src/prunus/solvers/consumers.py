"""A layer that reads units: its weights, the moment of its inputs and the unit that feeds each input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.solvers.problem import check


@dataclass(frozen=True, slots=True)
class Consumer:
    """One reader of the units of an axis.

    Attributes:
        weight: (O, I), kernels flattened as im2col does.
        moment: (I, I), E[xxᵀ] of the inputs; the covariance where the bias is refitted too.
        unit: (I,), index of the unit that feeds each input; −1 where none does, and the input stays.
        output: (O, O), S: the weights of errors of the outputs, as E[ggᵀ] of the output's gradients; None is the
            identity. It changes scores, never the best weights.
        scale: factor on this consumer's error where several are added up.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """

    weight: Tensor
    moment: Tensor
    unit: Tensor
    output: Tensor | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self.weight, self.moment)
        rows, width = self.weight.shape
        if self.unit.shape != (width,):
            raise DataError(
                f"units are given for {tuple(self.unit.shape)} inputs; allowed is {(width,)}, one an input."
            )
        if self.output is not None and self.output.shape != (rows, rows):
            raise DataError(f"the output weighting has shape {tuple(self.output.shape)}; allowed is {(rows, rows)}.")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of computations: the wider one of weight and moment, at least float32."""
        return torch.promote_types(torch.promote_types(self.weight.dtype, self.moment.dtype), torch.float32)

    def root(self) -> Tensor:
        """Return F with FᵀF = scale · WᵀSW, of at most as many rows as columns, for scores.

        Removing inputs only multiplies W from the right, so F can replace W in scores.
        """
        w = self.weight.detach().to(self.dtype)
        if self.output is not None:
            values, vectors = torch.linalg.eigh(self.output.detach().to(w.dtype))
            w = (vectors * values.clamp(min=0).sqrt()).T @ w
        w = w * self.scale**0.5
        small: Tensor = torch.linalg.qr(w, mode="r")[1] if len(w) > w.shape[1] else w
        return small

    def kept_inputs(self, kept: Tensor) -> Tensor:
        """Return the mask of the inputs that stay when these units stay. Shapes: kept (units,), bool → (I,), bool."""
        mask = torch.ones_like(self.unit, dtype=torch.bool)
        inside = self.unit >= 0
        mask[inside] = kept.to(self.unit.device)[self.unit[inside]]
        return mask


def unit_columns(unit: Tensor, units: int) -> Tensor:
    """List the inputs of every unit, padded with I, which is no input.

    Shapes: unit (I,) → (units, most inputs of a unit), int64.
    """
    inside = (unit >= 0).nonzero().reshape(-1)
    owner = unit[inside]
    order = torch.argsort(owner, stable=True)
    sizes = torch.bincount(owner, minlength=units)
    widest = int(sizes.max()) if len(sizes) else 0
    table = torch.full((units, widest), len(unit), dtype=torch.int64, device=unit.device)
    begin = torch.cumsum(sizes, 0) - sizes
    place = torch.arange(len(order), device=unit.device) - begin[owner[order]]
    table[owner[order], place] = inside[order]
    return table


def blocks(matrix: Tensor, columns: Tensor, fill: float = 0.0) -> Tensor:
    """Take the diagonal block of every unit; a padded entry is ``fill`` on the diagonal, else 0.

    Shapes: matrix (I, I), columns (units, b) → (units, b, b).
    """
    real = columns < len(matrix)
    index = columns.clamp(max=max(0, len(matrix) - 1))
    diagonal = matrix[index[:, :, None], index[:, None, :]] * (real[:, :, None] & real[:, None, :])
    diagonal.diagonal(dim1=1, dim2=2).add_((~real).to(diagonal.dtype), alpha=fill)
    return diagonal


def rows_of(matrix: Tensor, columns: Tensor) -> Tensor:
    """Take the rows of every unit, zeros where an entry is padding. Shapes: (I, k), (units, b) → (units, b, k)."""
    padded = torch.cat([matrix, matrix.new_zeros(1, matrix.shape[1])])
    return padded[columns]


def traces(own: Tensor, energy: Tensor) -> Tensor:
    """Return tr(A⁻¹ E) of every unit. Shapes: (units, b, b) twice → (units,)."""
    values: Tensor = torch.linalg.solve(own, energy).diagonal(dim1=1, dim2=2).sum(1)
    return values
