"""The order in which bands of rows lose whole windows of a weight, many bands at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from prunus.solvers.patterns import Tiles
from prunus.solvers.problem import triangle

_VALUES = 2**24
"""Entries of the inverses of the bands that are traced together: 128 MiB in float64."""


def trace_bands(weight: Tensor, inverse: Tensor, tile: Tiles, *, at_once: int = 1) -> tuple[Tensor, Tensor]:
    """Remove the tiles of every band of rows, the least s_G = tr(W_G (H⁻¹_GG)⁻¹ W_Gᵀ) first, until none is left.

    After each, W ← W − W_G (H⁻¹_GG)⁻¹ H⁻¹_{G,:} and H⁻¹ ← H⁻¹ − H⁻¹_{:,G} (H⁻¹_GG)⁻¹ H⁻¹_{G,:}, in each band with an
    inverse of its own. All bands remove equally many tiles at a time; smaller bands and last tiles are padded with rows
    and inputs of zeros, independent of all others, which changes no result.
    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580, the block form of algorithm 1.

    Args:
        weight: weights of the layer.
        inverse: H⁻¹, shared by all bands at the start.
        tile: height of a band and width of a tile.
        at_once: tiles of a band that are chosen from the same scores.

    Returns:
        Which tile each band loses in each step, and what that adds to its error.

    Shapes: weight (O, I), inverse (I, I) → (⌈O/rows⌉, ⌈I/columns⌉) twice.
    """
    rows, width = weight.shape
    more, wider = -rows % tile.rows, -width % tile.columns
    padded = functional.pad(weight, (0, wider, 0, more))
    shared = torch.eye(width + wider).to(inverse)
    shared[:width, :width] = inverse
    bands = padded.reshape(-1, tile.rows, padded.shape[1])
    together = max(1, _VALUES // max(1, len(shared) ** 2))
    parts = [_Bands(part, shared, tile.columns).trace(at_once) for part in torch.split(bands, together)]
    return torch.cat([order for order, _ in parts]), torch.cat([rises for _, rises in parts])


class _Bands:
    """The state of some bands during elimination; all have lost equally many tiles, but different ones."""

    def __init__(self, weight: Tensor, shared: Tensor, columns: int) -> None:
        bands, _, width = weight.shape
        self.w, self.columns = weight.clone(), columns
        self.inverse = shared.expand(bands, width, width)
        self.name = torch.arange(width // columns, device=weight.device).expand(bands, -1)
        self.order: list[Tensor] = []
        self.rises: list[Tensor] = []

    def trace(self, at_once: int) -> tuple[Tensor, Tensor]:
        """Remove all tiles: half of the remaining ones by low-rank changes, then write out the rest, and repeat."""
        bands, left = self.name.shape
        while left:
            steps = -(-left // 2)
            self._remove(steps, at_once)
            left -= steps
        nothing = self.w.new_zeros(bands, 0)
        return torch.cat([nothing.long(), *self.order], 1), torch.cat([nothing, *self.rises], 1)

    def _remove(self, steps: int, at_once: int) -> None:
        bands, tiles = self.name.shape
        change = self.w.new_zeros(bands, steps * self.columns, self.w.shape[2])
        own = self._own_blocks()
        removed = torch.zeros(bands, tiles, dtype=torch.bool, device=self.w.device)
        for done in range(0, steps, at_once):
            chosen = self._scores(own).masked_fill(removed, torch.inf)
            chosen = chosen.topk(min(at_once, steps - done), dim=1, largest=False).indices
            new, rise = self._step(chosen, change[:, : done * self.columns])
            change[:, done * self.columns : done * self.columns + new.shape[1]] = new
            parts = new.reshape(bands, -1, tiles, self.columns)
            own -= torch.einsum("btwi,btwj->bwij", parts, parts)
            removed.scatter_(1, chosen, True)
            own[removed] = torch.eye(self.columns).to(own)
            self.w.masked_fill_(self._inputs(removed)[:, None], 0.0)
            self.order.append(self.name.gather(1, chosen))
            self.rises.append(rise)
        self._shrink(removed, change)

    def _own_blocks(self) -> Tensor:
        """Return the block of every tile on the diagonal of its band's inverse. Shapes: → (B, tiles, c, c)."""
        bands, tiles = self.name.shape
        parts = self.inverse.reshape(bands, tiles, self.columns, tiles, self.columns)
        return parts.diagonal(dim1=1, dim2=3).movedim(-1, 1).clone()

    def _scores(self, own: Tensor) -> Tensor:
        bands, tiles = self.name.shape
        part = self.w.reshape(bands, -1, tiles, self.columns).permute(0, 2, 3, 1)  # (B, tiles, c, r)
        if self.columns == 1:
            return part.square().sum((2, 3)) / own[:, :, 0, 0]
        lower = triangle(own)
        solved: Tensor = torch.linalg.solve_triangular(lower, part, upper=False)
        return solved.square().sum((2, 3))

    def _inputs(self, tiles: Tensor) -> Tensor:
        """Expand a flag of each tile to its inputs. Shapes: (B, tiles) → (B, I)."""
        return tiles.repeat_interleave(self.columns, 1)

    def _step(self, chosen: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Eliminate tiles of every band. Shapes: chosen (B, k), change (B, t, I) → (B, k·c, I), (B, k)."""
        within = torch.arange(self.columns, device=chosen.device)
        inputs = (chosen[:, :, None] * self.columns + within).flatten(1)
        bands = torch.arange(len(chosen), device=chosen.device)[:, None]
        read = change.gather(2, inputs[:, None].expand(-1, change.shape[1], -1))
        column = self.inverse[bands, inputs] - read.mT @ change
        own = column.gather(2, inputs[:, None].expand(-1, inputs.shape[1], -1))
        lower = triangle(own)
        new = torch.linalg.solve_triangular(lower, column, upper=False)
        part = self.w.gather(2, inputs[:, None].expand(-1, self.w.shape[1], -1))
        value = torch.linalg.solve_triangular(lower, part.mT, upper=False)
        self.w -= value.mT @ new
        return new, value.square().sum(2).reshape(*chosen.shape, self.columns).sum(2)

    def _shrink(self, removed: Tensor, change: Tensor) -> None:
        bands, left = len(removed), int((~removed[0]).sum())
        tiles = (~removed).nonzero()[:, 1].reshape(bands, left)
        inputs = self._inputs(~removed).nonzero()[:, 1].reshape(bands, left * self.columns)
        change = change.gather(2, inputs[:, None].expand(-1, change.shape[1], -1))
        own = torch.arange(bands, device=removed.device)[:, None, None]
        self.inverse = self.inverse[own, inputs[:, :, None], inputs[:, None]].baddbmm_(change.mT, change, alpha=-1)
        self.w = self.w.gather(2, inputs[:, None].expand(-1, self.w.shape[1], -1))
        self.name = self.name.gather(1, tiles)
