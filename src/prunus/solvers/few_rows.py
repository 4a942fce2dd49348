"""A layer that reads more inputs than a matrix over their pairs can hold: its units are solved for from some rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import DataError
from prunus.solvers.consumers import Consumer, unit_columns
from prunus.solvers.problem import DAMPING, factor

_COLUMNS = 2048
"""Number of columns that are converted to float64 at once."""
_VALUES = 1 << 24
"""Values of the units' contributions that are held at once."""


@dataclass(frozen=True, slots=True)
class WideConsumer:
    """One reader of the units of an axis, with rows of its inputs in place of their moment.

    Memory grows with n·D and n², not with D².

    Attributes:
        weight: (O, D), kernels flattened as im2col does.
        rows: (n, D), inputs, drawn at random; of any float dtype.
        mean: (D,), what is subtracted from them: their mean where the bias is refitted too, else zero.
        unit: (D,), index of the unit that feeds each input; −1 where none does, and the input stays.
        output, scale: as in `Consumer`.

    Raises:
        DataError: shapes that do not fit, no rows, or values that are not finite.
    """

    weight: Tensor
    rows: Tensor
    mean: Tensor
    unit: Tensor
    output: Tensor | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        width = self.weight.shape[-1]
        if self.rows.dim() != 2 or self.rows.shape[1] != width or not len(self.rows) or len(self.unit) != width:
            raise DataError(
                f"the weight has shape {tuple(self.weight.shape)}, the rows {tuple(self.rows.shape)} and the units "
                f"{tuple(self.unit.shape)}; allowed is (O, D) with (n, D) and (D,), n above 0."
            )
        if not bool(torch.isfinite(self.weight).all() and torch.isfinite(self.rows).all()):
            raise DataError("the weight or the rows hold NaN or infinite values; check the calibration data.")

    def scales(self) -> Consumer:
        """Return the problem of one scale for each unit, which orders units as group OBS does.

        A unit u contributes z_uo = Σ_{i of u} w_oi x_i to output o, and all weights of a unit change by one factor s_u:
        min E Σ_o (Σ_u (1 − s_u) z_uo)², so H_uv = Σ_o E[z_uo z_vo], of as many rows as there are units. The other
        weights make up for a unit less than they could one by one, so errors are upper bounds.

        Source: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", arXiv:2204.09656 (the scales);
            Kurtić et al., "ZipLM", arXiv:2302.04089 (the order).

        Returns: a consumer of one output whose inputs are the units that feed this layer.
        """
        inside = torch.unique(self.unit[self.unit >= 0])
        place = torch.searchsorted(inside, self.unit.clamp(min=0))
        place = torch.where(self.unit >= 0, place, len(inside))
        columns = unit_columns(place, len(inside) + 1)  # inputs that no unit feeds are the last one's
        columns = columns if bool((self.unit < 0).any()) else columns[:-1]
        root = self._root()
        blocks = torch.cat([root, root.new_zeros(len(root), 1)], 1)[:, columns].movedim(0, 2)  # (units, b, O)
        square = torch.zeros(len(columns), len(columns), dtype=torch.float64, device=root.device)
        step = max(1, _VALUES // max(1, blocks.shape[0] * max(blocks.shape[1:])))
        for start in range(0, len(self.rows), step):
            part = self._centred(slice(start, start + step), slice(None)).to(root.dtype)
            part = torch.cat([part, part.new_zeros(len(part), 1)], 1)
            seen = (part[:, columns].movedim(0, 1) @ blocks).flatten(1)  # (units, rows · O)
            square += (seen @ seen.T).to(square.dtype)
        units = inside if len(columns) == len(inside) else torch.cat([inside, inside.new_full((1,), -1)])
        return Consumer(square.new_ones(1, len(columns)), square / len(self.rows), units)

    def refits(self, order: Sequence[int] | Tensor, units: int, counts: Iterable[int]) -> dict[int, Tensor]:
        """Return, for each number of kept units, the weights that make up best for those that are removed.

        Ŵ_S = W_S + Eᵀ (X_S X_Sᵀ/n + λI)⁻¹ X_S/n, E = X_R W_Rᵀ what the removed units R gave: `nested_refits` in dual
        form. λ is a share of the mean of the n eigenvalues of X Xᵀ/n, because the rows do not see the others.

        Args:
            order: units in the order of removal; units that are not in it stay.
            units: number of units.
            counts: numbers of kept units.

        Shapes: each weight (O, D), zero where its unit is removed.
        """
        removed = torch.as_tensor(order, dtype=torch.int64)
        rank = torch.full((units + 1,), -1, dtype=torch.int64)
        rank[removed] = torch.arange(units - 1, units - 1 - len(removed), -1)
        place = rank[self.unit.cpu()].to(self.rows.device)  # input → the least count at which it stays, less one
        return {count: self._refit(place < count) for count in sorted(set(counts))}

    def refit(self, kept: Tensor) -> Tensor:
        """Return the weights when these units stay. Shapes: kept (units,), bool → (O, D)."""
        mask = torch.ones_like(self.unit, dtype=torch.bool)
        mask[self.unit >= 0] = kept.to(self.unit.device)[self.unit[self.unit >= 0]]
        return self._refit(mask)

    def _refit(self, stays: Tensor) -> Tensor:
        count = len(self.rows)
        kernel = self.rows.new_zeros(count, count, dtype=torch.float64)
        lost = self.rows.new_zeros(count, len(self.weight), dtype=torch.float64)
        weight = self.weight.detach().to(torch.float64)
        for index in torch.split(stays.nonzero().reshape(-1), _COLUMNS):
            part = self._centred(slice(None), index)
            kernel += part @ part.T
        for index in torch.split((~stays).nonzero().reshape(-1), _COLUMNS):
            lost += self._centred(slice(None), index).to(torch.float64) @ weight[:, index].T
        kernel /= count
        kernel.diagonal().add_(DAMPING * kernel.diagonal().mean().clamp_min(1e-30))
        shares = torch.cholesky_solve(lost, factor(kernel)).T / count
        found = torch.zeros_like(weight)
        for index in torch.split(stays.nonzero().reshape(-1), _COLUMNS):
            found[:, index] = weight[:, index] + shares @ self._centred(slice(None), index).to(torch.float64)
        return found.to(self.weight.dtype)

    def _centred(self, at: slice, index: Tensor | slice) -> Tensor:
        """Return rows less their mean, in the dtype of the rows, at least float32."""
        dtype = torch.promote_types(self.rows.dtype, torch.float32)
        centred: Tensor = self.rows[at, index].to(dtype) - self.mean[index].to(dtype)
        return centred

    def _root(self) -> Tensor:
        """Return F with FᵀF = scale · WᵀSW, of O rows."""
        weight = self.weight.detach().to(torch.promote_types(self.rows.dtype, torch.float32))
        if self.output is not None:
            values, vectors = torch.linalg.eigh(self.output.detach().to(weight.dtype))
            weight = (vectors * values.clamp(min=0).sqrt()).T @ weight
        root: Tensor = weight * self.scale**0.5
        return root
