"""One consumer during an exchange of units: the cost of each change, and the change itself."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.solvers.consumers import Consumer, blocks, rows_of, traces, unit_columns
from prunus.solvers.problem import checked, damped, inverse, triangle


class Exchange:
    """The state of a local search in one consumer.

    K is (H_SS)⁻¹ on the inputs S that stay and zero elsewhere. Kept beside it: N = KH, Z = H − HKH (the part of H that
    the inputs S do not explain), the weights F_S = FHK and R = (F − F_S)H, all changed by low-rank updates.
    """

    def __init__(self, consumer: Consumer, kept: Tensor, damping: float) -> None:
        _, moment = checked(consumer.weight, consumer.moment)
        self.moment = damped(moment, damping)
        self.columns = unit_columns(consumer.unit.to(moment.device), len(kept))
        stays = consumer.kept_inputs(kept).nonzero().reshape(-1)
        self.inverse = torch.zeros_like(moment)
        self.inverse[stays[:, None], stays] = inverse(self.moment[stays][:, stays])
        root = consumer.root()
        self.solved = self.inverse @ self.moment
        self.rest = self.moment - self.moment @ self.solved
        self.target = root @ self.moment
        self.root = self.target @ self.inverse
        self.residual = self.target - self.root @ self.moment
        self.error = float((self.residual * root).sum())

    def gains(self) -> Tensor:
        """Return the fall of the error when a unit returns; only removed units count. Shapes: → (units,)."""
        energy = _squares(self.residual, self.columns)
        own = blocks(self.rest, self.columns, fill=1.0)
        # Blocks of units that stay are zero; the identity makes the batch solvable.
        own = own + _flat(own) * torch.eye(own.shape[1]).to(own)
        return traces(own, energy)

    def losses_with(self, unit: int) -> Tensor:
        """Return the rise of the error when each unit is removed after ``unit`` returned. Shapes: → (units,)."""
        back, root = self._back(unit)
        own = blocks(self.inverse, self.columns, fill=1.0)
        mine = rows_of(back, self.columns)
        own = own + mine @ mine.mT
        own = own + _flat(own) * torch.eye(own.shape[1]).to(own)
        energy = _squares(self.root + root @ back.T, self.columns)
        return traces(own, energy)

    def exchange(self, back: int, out: int) -> None:
        """Restore one unit and remove another."""
        self._update(self._back(back)[0], 1.0)
        index = self._inputs(out)
        if len(index):
            column = self.inverse[:, index]
            lower = triangle(column[index])
            self._update(torch.linalg.solve_triangular(lower, column.T, upper=False).T, -1.0)

    def _inputs(self, unit: int) -> Tensor:
        index = self.columns[unit]
        return index[index < len(self.moment)]

    def _back(self, unit: int) -> tuple[Tensor, Tensor]:
        """Return U and V: with ``unit`` restored the inverse is K + UUᵀ and the weights are F_S + VUᵀ."""
        index = self._inputs(unit)
        if not len(index):
            return self.inverse.new_zeros(len(self.inverse), 0), self.root.new_zeros(len(self.root), 0)
        lower = triangle(self.rest[index][:, index])
        ahead = -self.solved[:, index]
        ahead[index] += torch.eye(len(index)).to(ahead)
        factor = torch.linalg.solve_triangular(lower, ahead.T, upper=False).T
        return factor, torch.linalg.solve_triangular(lower, self.residual[:, index].T, upper=False).T

    def _update(self, factor: Tensor, sign: float) -> None:
        """Set K ← K ± UUᵀ and update all that depends on K."""
        through, target = self.moment @ factor, self.target @ factor
        self.inverse.addmm_(factor, factor.T, alpha=sign)
        self.solved.addmm_(factor, through.T, alpha=sign)
        self.rest.addmm_(through, through.T, alpha=-sign)
        self.root.addmm_(target, factor.T, alpha=sign)
        self.residual.addmm_(target, through.T, alpha=-sign)


def _squares(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return M_BᵀM_B of every unit. Shapes: (O, I), (units, b) → (units, b, b)."""
    read = rows_of(matrix.T, columns)
    return read @ read.mT


def _flat(blocks_: Tensor) -> Tensor:
    """Return a tiny ridge where a block is zero to rounding, so that the others can be solved in one batch."""
    size = blocks_.diagonal(dim1=1, dim2=2).amax(1)
    return (size < 1e-9 * size.max().clamp(min=1e-300)).to(blocks_.dtype)[:, None, None]
