"""Modules that reconnect a network where layers were removed: `Scale`, `Pool`, and `First` of several results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Scale(nn.Module):
    """A scale and a shift of every channel: y = weight · x + bias.

    Args:
        width: number of channels.
        dim: dim of the channels.
    """

    def __init__(self, width: int, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled input. Shapes: (…, width, …) → the same."""
        if self.dim in (-1, x.dim() - 1):
            return x * self.weight + self.bias
        return (x.movedim(self.dim, -1) * self.weight + self.bias).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        """Return width and dim."""
        return f"{len(self.weight)}, dim={self.dim}"


class Pool(nn.Module):
    """An average over every ``stride`` positions, without parameters; further channels are zeros, missing ones cut off.

    Args:
        stride: positions of one average, in each dim behind the channels; 1 keeps the positions.
        width: number of channels that are returned; 0 keeps them.
    """

    def __init__(self, stride: int = 1, width: int = 0) -> None:
        super().__init__()
        self.stride, self.width = stride, width

    def forward(self, x: Tensor) -> Tensor:
        """Return the averages. Shapes: (N, C, …) → (N, width, ⌈…/stride⌉); (N, …, C) alone where stride is 1."""
        if self.stride > 1:
            sizes = [-(-n // self.stride) for n in x.shape[2:]]
            pools: tuple[Any, ...] = (
                functional.adaptive_avg_pool1d,
                functional.adaptive_avg_pool2d,
                functional.adaptive_avg_pool3d,
            )
            x = pools[len(sizes) - 1](x, sizes)
        if self.width and self.width != x.shape[1]:
            less = min(self.width, x.shape[1])
            x = torch.cat([x[:, :less], x.new_zeros(len(x), self.width - less, *x.shape[2:])], 1)
        return x

    def extra_repr(self) -> str:
        """Return the options that differ from the default."""
        return ", ".join(f"{k}={v}" for k, v in (("stride", self.stride), ("width", self.width)) if v > (k == "stride"))


class First(nn.Module):
    """A module in place of one with several results: its result comes first, the others are None.

    Args:
        inner: the module; it gets the first argument.
        results: number of results.
    """

    def __init__(self, inner: nn.Module, results: int) -> None:
        super().__init__()
        self.inner, self.results = inner, results

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return a tuple that begins with the inner module's result."""
        return (self.inner(next(iter((*args, *kwargs.values())))), *[None] * (self.results - 1))
