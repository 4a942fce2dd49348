"""Compute in another float type without changing the code that runs: its dtype literals become that type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Replace(TorchFunctionMode):
    """A mode that replaces every float dtype in a call by ``dtype``, also in ``x.float()`` and ``x.half()``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.casts = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.casts:
            return args[0].to(self.dtype)
        if self.dtype is torch.float64 and getattr(func, "__name__", "").split(".")[0] in ("_grouped_mm", "grouped_mm"):
            return grouped_product(*args, **(kwargs or {}))
        named = {k: self._wide(v) for k, v in (kwargs or {}).items()}
        return func(*(self._wide(a) for a in args), **named)

    def _wide(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value in NARROW else value


def grouped_product(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Multiply rows (T, K) by the matrix of their group, (G, K, N) → (T, N); torch's kernel has no float64."""
    if offs is None or mat_a.dim() == 3:
        return mat_a @ mat_b
    stops = [int(v) for v in offs]
    rows = [mat_a[start:stop] @ mat_b[g] for g, (start, stop) in enumerate(zip([0, *stops], stops, strict=False))]
    out = torch.cat([*rows, mat_a.new_zeros(len(mat_a) - stops[-1], mat_b.shape[-1])])
    return out if bias is None else out + bias


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Run a block in which dtype literals and new float tensors have ``dtype``; existing tensors keep theirs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _Replace(dtype):
            yield
    finally:
        torch.set_default_dtype(before)
