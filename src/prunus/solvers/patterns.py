"""Sparsity patterns of a matrix: any weights, the same number in every row, N of M inputs, whole tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prunus.errors import OptionError


class Pattern(Protocol):
    """A sparsity pattern; it chooses the best mask that follows it."""

    @property
    def span(self) -> int:
        """The number of neighbouring columns that are decided together."""
        ...

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """Keep at most ``count`` weights, those of the highest scores. Shapes: (O, I) → (O, I), bool."""
        ...


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Any weights, exactly ``count``; equal scores keep the lower index."""

    @property
    def span(self) -> int:
        """The number of neighbouring columns that are decided together."""
        return 1

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """Keep the ``count`` highest scores. Shapes: (O, I) → (O, I), bool."""
        return _best(scores.reshape(1, -1), count).reshape(scores.shape)


@dataclass(frozen=True, slots=True)
class EveryRow:
    """The same number of weights in every row; the first rows keep the remainder of the division."""

    @property
    def span(self) -> int:
        """The number of neighbouring columns that are decided together."""
        return 1

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """Keep ⌊count / O⌋ in a row, one more in the first rows. Shapes: (O, I) → (O, I), bool."""
        each, over = divmod(count, max(1, len(scores)))
        found = _best(scores, each)
        if over:
            found[:over] = _best(scores[:over], each + 1)
        return found


@dataclass(frozen=True, slots=True)
class NofM:
    """N of every M consecutive inputs of a row; a shorter last group keeps ⌈N·length/M⌉. ``count`` is ignored."""

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise OptionError(f"the pattern is {self.n}:{self.m}; allowed is 1 ≤ N ≤ M.")

    @property
    def span(self) -> int:
        """The number of neighbouring columns that are decided together."""
        return self.m

    def quota(self, width: int) -> int:
        """Return the number of weights that a group of this width keeps."""
        return -(-self.n * width // self.m)

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """Keep the N highest of every M. Shapes: (O, I) → (O, I), bool."""
        rows, width = scores.shape
        whole = width - width % self.m
        found = torch.zeros_like(scores, dtype=torch.bool)
        found[:, :whole] = _best(scores[:, :whole].reshape(-1, self.m), self.n).reshape(rows, whole)
        found[:, whole:] = _best(scores[:, whole:], self.quota(width - whole))
        return found


@dataclass(frozen=True, slots=True)
class Tiles:
    """Whole tiles of ``rows`` × ``columns``, smaller at the borders, ranked by their mean score."""

    rows: int = 4
    columns: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise OptionError(f"a tile is {self.rows} × {self.columns}; allowed are sides of at least 1.")

    @property
    def span(self) -> int:
        """The number of neighbouring columns that are decided together."""
        return self.columns

    def mask(self, scores: Tensor, count: int) -> Tensor:
        """Keep the best tiles, as many as ``count`` weights hold. Shapes: (O, I) → (O, I), bool."""
        down, across = (torch.arange(n, device=scores.device) for n in scores.shape)
        wide = -(-scores.shape[1] // self.columns)
        labels = (down[:, None] // self.rows * wide + across // self.columns).reshape(-1)
        sizes = torch.bincount(labels)
        means = torch.zeros(len(sizes), dtype=torch.float64, device=scores.device)
        means = means.index_add_(0, labels, scores.reshape(-1).double()) / sizes
        order = torch.argsort(means, descending=True, stable=True)
        chosen = torch.zeros(len(sizes), dtype=torch.bool, device=scores.device)
        chosen[order[torch.cumsum(sizes[order], 0) <= count]] = True
        return chosen[labels].reshape(scores.shape)


def _best(scores: Tensor, count: int) -> Tensor:
    """Keep the ``count`` highest of every row; equal scores keep the lower index."""
    count = min(count, scores.shape[1])
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if count:
        order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :count]
        mask.scatter_(1, order, True)
    return mask
