"""ExactOBS: prune every row of a weight matrix one weight at a time, each row with its own inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.solvers.band_traces import trace_bands
from prunus.solvers.patterns import EveryRow, NofM, Pattern, Tiles, Unstructured
from prunus.solvers.problem import DAMPING, Pruned, check_count, checked, damped, inverse
from prunus.solvers.row_traces import Traces, trace_rows
from prunus.solvers.support import refit


def exact_obs(
    weight: Tensor,
    moment: Tensor,
    count: int,
    pattern: Pattern | None = None,
    *,
    damping: float = DAMPING,
    at_once: int = 1,
) -> Pruned:
    """Prune a layer row by row with exact second-order updates, then choose across rows by the error of each step.

    s_p = w_p² / [H⁻¹]_pp; the least is removed; w ← w − w_p/[H⁻¹]_pp · H⁻¹_{:,p}; p is eliminated from H⁻¹. Of the
    steps of all rows those that add least error are taken, in the order of each row; then the weights on the mask are
    solved for.
    Source: Frantar, Singh and Alistarh, "Optimal Brain Compression", arXiv:2208.11580, algorithms 1 and 2.

    Args:
        weight: weights of the layer.
        moment: E[xxᵀ] of its inputs.
        count: number of weights that stay; `NofM` ignores it.
        pattern: `Unstructured` (default), `EveryRow`, `NofM`, or `Tiles`: a band, as many rows as a tile has, loses
            whole tiles, s_G = tr(W_G (H⁻¹_GG)⁻¹ W_Gᵀ); tiles of one row are windows of that row.
        damping: λ, as a share of the mean of the diagonal of H.
        at_once: weights of a row, or tiles of a band, that are chosen from the same scores; more than 1 is faster and
            approximates the order. The updates stay exact.

    Shapes: weight (O, I), moment (I, I).

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
        OptionError: a number out of range, or a pattern of another kind.
    """
    w, h = checked(weight, moment)
    check_count(count, w.numel())
    if at_once < 1:
        raise OptionError(f"at_once is {at_once}; allowed is at least 1.")
    chosen = pattern or Unstructured()
    if isinstance(chosen, Tiles):
        mask = _tiles(w, h, count, chosen, damping, at_once)
    elif isinstance(chosen, NofM):
        mask = _rows(w, h, damping, at_once, chosen).last()
    elif isinstance(chosen, EveryRow):
        each, over = divmod(count, max(1, len(w)))
        mask = _rows(w, h, damping, at_once).after([w.shape[1] - each - (i < over) for i in range(len(w))])
    elif isinstance(chosen, Unstructured):
        mask = _rows(w, h, damping, at_once).cheapest(w.numel() - count)
    else:
        raise OptionError(f"pattern is {type(chosen).__name__}; allowed are Unstructured, EveryRow, NofM and Tiles.")
    return Pruned(refit(w, h, mask, damping=damping).to(weight.dtype), mask)


def _rows(w: Tensor, h: Tensor, damping: float, at_once: int, pattern: NofM | None = None) -> Traces:
    return trace_rows(w, inverse(damped(h, damping)), at_once=at_once, pattern=pattern)


def _tiles(w: Tensor, h: Tensor, count: int, tile: Tiles, damping: float, at_once: int) -> Tensor:
    """Trace every band of rows, then remove the tiles that add least error for their size, in their band's order."""
    order, rises = trace_bands(w, inverse(damped(h, damping)), tile, at_once=at_once)
    rows, width = w.shape
    heights = (rows - torch.arange(len(order), device=w.device) * tile.rows).clamp(max=tile.rows)
    widths = (width - order * tile.columns).clamp(max=tile.columns)
    sizes = heights[:, None] * widths
    # A tile is removed after those before it in its band, so it costs at least as much as each of them.
    cost = torch.cummax(rises / sizes, 1).values
    # Sorted step by step over all bands: a stable sort then never takes a later step of a band first.
    ranking = torch.argsort(cost.T.reshape(-1), stable=True)
    removed = torch.cumsum(sizes.T.reshape(-1)[ranking], 0)
    taken = ranking[: int((removed < w.numel() - count).sum()) + (count < w.numel())]
    tiles = torch.ones_like(order, dtype=torch.bool)
    tiles[taken % max(1, len(order)), order.T.reshape(-1)[taken]] = False
    return tiles.repeat_interleave(tile.rows, 0)[:rows].repeat_interleave(tile.columns, 1)[:, :width]
