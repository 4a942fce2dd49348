"""Modules in the place of what a plan removed whole: one hands its input on, one answers zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Bypass(nn.Module):
    """Hand the first argument on, as if the module were not there.

    Args:
        results: of how many the answer consists, as from a layer that also returns its weights; the others are None.
            0 answers with the argument itself.
    """

    def __init__(self, results: int = 0) -> None:
        super().__init__()
        self.results = results

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument, or a tuple that begins with it."""
        first = next(iter((*args, *kwargs.values())))
        return (first, *[None] * (self.results - 1)) if self.results else first

    def extra_repr(self) -> str:
        """Say what comes back."""
        return f"results={self.results}" if self.results else ""


class Zero(nn.Module):
    """Answer zero in the shape of the first tensor among the arguments: a branch that adds nothing.

    Args:
        results: as in `Bypass`.
        dim, width: size of one dim of the answer; 0 leaves it as in the argument.
        empty: the dim has no positions at all: a segment of a concatenation that is gone.
        stride: of the dims behind the channels, as of a convolution that keeps the size at stride 1.
    """

    # What torch's encoder layers ask of their attention before they take a fused kernel.
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
        """Say what comes back."""
        told = [f"{k}={getattr(self, k)}" for k in ("results", "width", "empty") if getattr(self, k)]
        return ", ".join([*told, *([f"stride={self.stride}"] if self.stride > 1 else [])])
