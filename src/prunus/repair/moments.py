"""What a layer reads and what it should answer, as means and second moments that can be merged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from prunus.errors import DataError, OptionError


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of inputs x and targets t, a group of a grouped layer at a time, in float64.

    Attributes:
        count: rows n that were seen.
        mean: E[x].
        second: E[xxᵀ].
        target: E[t].
        cross: E[t xᵀ].
        target_second: E[t²].

    Shapes: mean (G, D), second (G, D, D), target (G, O), cross (G, O, D), target_second (G, O).
    """

    count: int
    mean: Tensor
    second: Tensor
    target: Tensor
    cross: Tensor
    target_second: Tensor

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Moments:
        """Return the moments of rows.

        Shapes: inputs (G, n, D), targets (G, n, O).
        Raises: DataError: no rows, or different numbers of them.
        """
        if inputs.dim() != 3 or targets.dim() != 3 or inputs.shape[:2] != targets.shape[:2] or not inputs.shape[1]:
            raise DataError(
                f"moments got inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}; allowed: (G, n, D) and "
                "(G, n, O) with the same G and n above 0. Give one target row for each input row."
            )
        x, t = inputs.to(torch.float64), targets.to(torch.float64)
        n = x.shape[1]
        turned = x.transpose(1, 2)
        return cls(
            n, x.mean(1), turned @ x / n, t.mean(1), t.transpose(1, 2) @ x / n, t.square().mean(1)
        )  # fmt: skip

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together, as if seen in one pass."""
        if self.cross.shape != other.cross.shape:
            raise OptionError(
                f"moments of shape {tuple(self.cross.shape)} and {tuple(other.cross.shape)} cannot be merged; "
                "merge those of one layer."
            )
        count = self.count + other.count
        own = self.count / count

        def joint(a: Tensor, b: Tensor) -> Tensor:
            return a * own + b * (1 - own)

        return Moments(
            count, joint(self.mean, other.mean), joint(self.second, other.second), joint(self.target, other.target),
            joint(self.cross, other.cross), joint(self.target_second, other.target_second),
        )  # fmt: skip

    def covariance(self) -> Tensor:
        """Return C = E[xxᵀ] − E[x]E[x]ᵀ, (G, D, D)."""
        return self.second - self.mean.unsqueeze(2) * self.mean.unsqueeze(1)

    def cross_covariance(self) -> Tensor:
        """Return E[t xᵀ] − E[t]E[x]ᵀ, (G, O, D)."""
        return self.cross - self.target.unsqueeze(2) * self.mean.unsqueeze(1)

    def target_variance(self) -> Tensor:
        """Return the variance of every target, (G, O)."""
        return (self.target_second - self.target.square()).clamp_min(0)

    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Return E(t − Wx − b)² of every output, (G, O).

        Shapes: matrix (G, O, D), bias (G, O); both float64.
        """
        mean = (matrix @ self.mean.unsqueeze(2)).squeeze(2)
        squares = ((matrix @ self.second) * matrix).sum(2) - 2 * (matrix * self.cross).sum(2) + self.target_second
        return (squares + bias * (2 * mean - 2 * self.target + bias)).clamp_min(0)


def moments_of(rows: list[tuple[Tensor, Tensor]], *, most_bytes: int = 1 << 28) -> Moments:
    """Return the moments of rows that came in parts; they are joined first, for one large product costs less than many.

    Args:
        rows: pairs (inputs, targets) as `Moments.of` takes them.
        most_bytes: of float64 rows that are joined at once.

    Raises: DataError: no parts.
    """
    found: list[Moments] = []
    waiting: list[tuple[Tensor, Tensor]] = []
    size = 0
    for number, (x, t) in enumerate(rows):
        waiting.append((x, t))
        size += 8 * (x.numel() + t.numel())
        if size >= most_bytes or number == len(rows) - 1:
            found.append(Moments.of(*(torch.cat(part, 1) for part in zip(*waiting, strict=True))))
            waiting, size = [], 0
    return merged(found)


def merged(parts: list[Moments]) -> Moments:
    """Return the moments of all parts together.

    Raises: DataError: no parts.
    """
    if not parts:
        raise DataError("there are no moments to merge; no calibration batch was seen. Give at least one batch.")
    return reduce(lambda a, b: a + b, parts)
