"""N:M masks: of every M consecutive inputs keep the N best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from prunus.errors import OptionError
from prunus.masks.flat import check_finite

Along = Literal["flat", "input"]


def nm_masks(
    scores: Mapping[str, Tensor],
    *,
    n: int = 2,
    m: int = 4,
    along: Along = "input",
    input_dims: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Keep the N best of every M consecutive inputs of a unit; 2:4 is the pattern of sparse tensor cores.

    A last group of fewer than M inputs keeps ⌈N·len/M⌉, so that no group is emptied; `ragged_tails` names the
    tensors that have one. Equal scores are kept in order of index.
    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378.

    Args:
        scores: weight name → scores, higher = keep (for magnitude pass |w|).
        n: weights that stay in a group, 1 to m.
        m: size of a group.
        along: "input": groups run along I for each kernel position, as sparse kernels need them; "flat": along the
            flattened (I·kh·kw), which also prunes kernels of one input channel.
        input_dims: name → dim that holds the inputs where it is not 1, see `contracted_dims`.

    Returns:
        Name → boolean mask of the same shape and device, True = keep.

    Shapes: each score (O, I, *K) or (O, I).

    Raises:
        OptionError: n or m out of range, an unknown ``along``, or a tensor of fewer than two dims.
        DataError: no tensors, or a score is not finite.

    Example:
        >>> nm_masks({"w": torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0]])})["w"].tolist()
        [[True, False, True, False, True]]
    """
    _check(scores, n, m, along)
    return {name: _mask(score, n, m, along, (input_dims or {}).get(name, 1)) for name, score in scores.items()}


def _check(scores: Mapping[str, Tensor], n: int, m: int, along: str) -> None:
    if not 1 <= n <= m:
        raise OptionError(f"the pattern is {n}:{m}; allowed is 1 ≤ N ≤ M.")
    if along not in ("flat", "input"):
        raise OptionError(f"along is {along!r}; allowed are 'flat' and 'input'.")
    check_finite(scores)
    for name, score in scores.items():
        if score.dim() < 2:
            raise OptionError(f"tensor {name!r} has {score.dim()} dims; N:M needs at least 2. Leave it out.")


def _rows(score: Tensor, along: Along, input_dim: int) -> Tensor:
    """Move the grouped dim to the end: (O, I·K), or (O, *K, I)."""
    if along == "input":
        return score.movedim(input_dim, -1)
    return score.movedim(input_dim, 1).flatten(1)


def _mask(score: Tensor, n: int, m: int, along: Along, input_dim: int) -> Tensor:
    rows = _rows(score.detach().to(device="cpu", dtype=torch.float64), along, input_dim)
    width = rows.shape[-1]
    groups = math.ceil(width / m)
    padded = torch.full((*rows.shape[:-1], groups * m), -math.inf, dtype=torch.float64)
    padded[..., :width] = rows
    order = torch.argsort(padded.reshape(*rows.shape[:-1], groups, m), dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    length = torch.full((groups, 1), m)
    if width % m:
        length[-1] = width % m
    quota = (n * length + m - 1) // m
    kept = (rank < quota).flatten(-2)[..., :width]
    if along == "flat":
        kept = kept.reshape(score.movedim(input_dim, 1).shape).movedim(1, -1)
    return kept.movedim(-1, input_dim).contiguous().to(score.device)
