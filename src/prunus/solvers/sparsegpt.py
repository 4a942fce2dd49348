"""SparseGPT: prune columns from left to right, passing the error of removed weights on to later columns."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.solvers.patterns import NofM, Pattern, Tiles, Unstructured
from prunus.solvers.problem import DAMPING, Pruned, check_count, checked, damped, inverse, triangle

BLOCK = 128


def sparsegpt(
    weight: Tensor,
    moment: Tensor,
    count: int,
    pattern: Pattern | None = None,
    *,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> Pruned:
    """Prune a layer in one pass over its columns.

    With U the upper Cholesky factor of (H + λI)⁻¹, each block of columns keeps its highest w²/U_jj², and every column
    passes its error on: W_{:,j+1:} −= (w_j − ŵ_j)/U_jj · U_{j,j+1:}. Whole tiles G are ranked by ‖W_G U_GG⁻¹‖²,
    their cost when the columns before them are decided.
    Source: Frantar and Alistarh, "SparseGPT", arXiv:2301.00774, algorithm 1.

    Args:
        weight: weights of the layer.
        moment: E[xxᵀ] of its inputs.
        count: number of weights that stay, divided between the blocks of columns. `NofM` ignores it.
        pattern: `Unstructured` unless given.
        damping: λ, as a share of the mean of the diagonal of H.
        block: number of columns that are decided together, rounded to a multiple of the pattern's span.

    Shapes: weight (O, I), moment (I, I).

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
        OptionError: a count, block or damping out of range.
    """
    w, h = checked(weight, moment)
    check_count(count, w.numel())
    if block < 1:
        raise OptionError(f"block is {block}; allowed is at least 1 column.")
    chosen = pattern or Unstructured()
    upper = triangle(inverse(damped(h, damping)), upper=True)
    w[:, h.diagonal() <= 0] = 0
    block = chosen.span * max(1, block // chosen.span)
    # An N:M group is decided at its first column, when it has received the errors of all columns before it.
    step = chosen.span if isinstance(chosen, NofM) else block
    mask, width, spent = torch.ones_like(w, dtype=torch.bool), w.shape[1], 0
    for start in range(0, width, block):
        stop = min(start + block, width)
        part, kept, u = w[:, start:stop], mask[:, start:stop], upper[start:stop, start:stop]
        errors = torch.zeros_like(part)
        for j in range(stop - start):
            if j % step == 0:
                scores = _scores(part[:, j : j + step], u[j : j + step, j : j + step], chosen)
                kept[:, j : j + step] = chosen.mask(scores, count * min(start + j + step, width) // width - spent)
                spent += int(kept[:, j : j + step].sum())
            column = torch.where(kept[:, j], part[:, j], torch.zeros_like(part[:, j]))
            errors[:, j] = (part[:, j] - column) / u[j, j]
            part[:, j:] -= errors[:, j, None] * u[j, j:]
            part[:, j] = column
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return Pruned(w.to(weight.dtype), mask)


def _scores(part: Tensor, upper: Tensor, pattern: Pattern) -> Tensor:
    """Return the cost of each weight; in a tile, the earlier weights of its row have passed their errors on."""
    if not isinstance(pattern, Tiles):
        return (part / upper.diagonal()).square()
    windows = zip(torch.split(part, pattern.columns, 1), range(0, part.shape[1], pattern.columns), strict=True)
    solved = [
        torch.linalg.solve_triangular(upper[at : at + w.shape[1], at : at + w.shape[1]], w, upper=True, left=False)
        for w, at in windows
    ]
    return torch.cat(solved, 1).square()
