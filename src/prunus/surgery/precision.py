"""Compute in another float type without touching the code that runs: dtype literals are read as that type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Replace(TorchFunctionMode):
    """Every float dtype that a call names becomes ``dtype``; ``x.float()`` and ``x.half()`` too."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.casts = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.casts:
            return args[0].to(self.dtype)
        named = {k: self._wide(v) for k, v in (kwargs or {}).items()}
        return func(*(self._wide(a) for a in args), **named)

    def _wide(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value in NARROW else value


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Run a block in which float literals and new float tensors have ``dtype``; tensors that exist keep theirs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _Replace(dtype):
            yield
    finally:
        torch.set_default_dtype(before)
