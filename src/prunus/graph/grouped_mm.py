"""``prunus::grouped_mm``: the grouped product of expert layers for any sizes; torch's kernel wants rows of 16 bytes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

NAME = "prunus.grouped_mm.default"
_ROW_BYTES = 16


def row_items(dtype: torch.dtype) -> int:
    """Return the number of items of which every row of ``aten._grouped_mm`` must be a multiple."""
    return max(1, _ROW_BYTES // dtype.itemsize)


def _grouped_mm(mat_a: torch.Tensor, mat2: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """Pad (T, K) and (E, K, N) with zeros to whole rows, multiply, and return the requested (T, N)."""
    step, (inner, width) = row_items(mat_a.dtype), mat2.shape[-2:]
    rows = F.pad(mat_a, (0, -inner % step))
    product = torch._grouped_mm(rows, F.pad(mat2, (0, -width % step, 0, -inner % step)), offs=offs)
    return product[:, :width]


# Two copies of the package in one process (a reload) must not define it twice.
if not hasattr(torch.ops.prunus, "grouped_mm"):
    torch.library.define("prunus::grouped_mm", "(Tensor self, Tensor mat2, Tensor offs) -> Tensor")
    torch.library.impl("prunus::grouped_mm", "CompositeImplicitAutograd", _grouped_mm)
