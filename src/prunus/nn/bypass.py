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

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Return ``x``, or a tuple that begins with it."""
        return (x, *[None] * (self.results - 1)) if self.results else x

    def extra_repr(self) -> str:
        """Say what comes back."""
        return f"results={self.results}" if self.results else ""


class Zero(nn.Module):
    """Answer zero in the shape of the first argument: a branch that adds nothing.

    Args:
        results: as in `Bypass`.
        width: size of the last dim of the answer; that of the argument by default.
    """

    def __init__(self, results: int = 0, width: int | None = None) -> None:
        super().__init__()
        self.results, self.width = results, width

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return zeros, or a tuple that begins with them."""
        zero = torch.zeros_like(x) if self.width is None else x.new_zeros(*x.shape[:-1], self.width)
        return (zero, *[None] * (self.results - 1)) if self.results else zero

    def extra_repr(self) -> str:
        """Say what comes back."""
        return ", ".join(f"{k}={v}" for k, v in (("results", self.results), ("width", self.width)) if v)
