"""Modules that replace a removed module: one returns its input, one returns zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bypass(nn.Module):
    """A module that returns its first argument, as if it were not there.

    Args:
        results: number of results, for a layer that also returns its attention weights; the others are None. 0 returns
            the argument itself.
    """

    def __init__(self, results: int = 0) -> None:
        super().__init__()
        self.results = results

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument, or a tuple that begins with it."""
        first = next(iter((*args, *kwargs.values())))
        return (first, *[None] * (self.results - 1)) if self.results else first

    def extra_repr(self) -> str:
        """Return the options that differ from the default."""
        return f"results={self.results}" if self.results else ""


class Zero(nn.Module):
    """A branch that adds nothing: returns zeros in the shape of the first float tensor among the arguments.

    Args:
        results: as in `Bypass`.
        dim, width: a dim of the result and its size; 0 keeps the size of the argument.
        empty: the dim has no positions: a removed segment of a concatenation.
        stride: stride of the dims behind the channels, as in a convolution that keeps the size at stride 1.
    """

    # torch's encoder layers read this from their attention before they select a fused kernel.
    batch_first = False

    def __init__(self, results: int = 0, dim: int = -1, width: int = 0, stride: int = 1, empty: int = 0) -> None:
        super().__init__()
        self.results, self.dim, self.width, self.stride, self.empty = results, dim, width, stride, bool(empty)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros, or a tuple that begins with them."""
        like = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.is_floating_point())
        shape = list(like.shape)
        if self.stride > 1:
            shape[2:] = [-(-n // self.stride) for n in shape[2:]]
        if self.width or self.empty:
            shape[self.dim] = self.width
        zero = like.new_zeros(shape)
        return (zero, *[None] * (self.results - 1)) if self.results else zero

    def extra_repr(self) -> str:
        """Return the options that differ from the default."""
        fields = [f"{k}={getattr(self, k)}" for k in ("results", "width", "empty") if getattr(self, k)]
        return ", ".join([*fields, *([f"stride={self.stride}"] if self.stride > 1 else [])])
