"""Moments of a layer's inputs and target outputs: means and second moments that can be merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from prunus.errors import DataError, OptionError
from prunus.repairs.normal_equations import COLUMNS, Dual, Normal, Primal

_BLOCK = 512  # columns computed at once in xᵀx, of which only the upper half is computed


class Moments(ABC):
    """First and second moments of inputs x and targets t for each group of a grouped layer, in float64.

    Shapes: mean (G, D), second (G, D, D), target (G, O), cross (G, O, D), target_second (G, O).
    """

    __slots__ = ()

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of rows n."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x]."""

    @property
    @abstractmethod
    def second(self) -> Tensor:
        """E[xxᵀ]."""

    @property
    @abstractmethod
    def target(self) -> Tensor:
        """E[t]."""

    @property
    @abstractmethod
    def cross(self) -> Tensor:
        """E[t xᵀ]."""

    @property
    @abstractmethod
    def target_second(self) -> Tensor:
        """E[t²]."""

    @abstractmethod
    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Return E(t − Wx − b)² of every output, (G, O).

        Shapes: matrix (G, O, D), bias (G, O); both float64.
        """

    @abstractmethod
    def normal(self, matrix: Tensor, *, shifts: bool) -> Normal:
        """Return the normal equations of a correction to a weight, from covariances where the outputs can shift.

        Shapes: matrix (G, O, D).
        """

    @abstractmethod
    def sums(self) -> Sums:
        """Return these moments in the form of `Sums`."""

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together, as if computed in one pass."""
        if self.mean.shape != other.mean.shape or self.target.shape != other.target.shape:
            raise OptionError(
                f"moments of {tuple(self.mean.shape)} inputs and {tuple(self.target.shape)} outputs cannot be merged "
                f"with {tuple(other.mean.shape)} and {tuple(other.target.shape)}; merge those of one layer."
            )
        return self.sums().with_more(other.sums())

    @staticmethod
    def of(inputs: Tensor, targets: Tensor) -> Sums:
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
        return Sums(n, x.mean(1), _squared(x).div_(n), t.mean(1), (t.mT @ x).div_(n), t.square().mean(1))

    def covariance(self) -> Tensor:
        """Return C = E[xxᵀ] − E[x]E[x]ᵀ, (G, D, D)."""
        return torch.baddbmm(self.second, self.mean.unsqueeze(2), self.mean.unsqueeze(1), alpha=-1)

    def cross_covariance(self) -> Tensor:
        """Return E[t xᵀ] − E[t]E[x]ᵀ, (G, O, D)."""
        return self.cross - self.target.unsqueeze(2) * self.mean.unsqueeze(1)

    def target_variance(self) -> Tensor:
        """Return the variance of every target, (G, O)."""
        return (self.target_second - self.target.square()).clamp_min(0)


@dataclass(frozen=True, slots=True)
class Sums(Moments):
    """Moments stored as tensors; attributes as in `Moments`."""

    count: int
    mean: Tensor
    second: Tensor
    target: Tensor
    cross: Tensor
    target_second: Tensor

    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Return E(t − Wx − b)² of every output, (G, O)."""
        mean = (matrix @ self.mean.unsqueeze(2)).squeeze(2)
        squares = ((matrix @ self.second) * matrix).sum(2) - 2 * (matrix * self.cross).sum(2) + self.target_second
        return (squares + bias * (2 * mean - 2 * self.target + bias)).clamp_min(0)

    def normal(self, matrix: Tensor, *, shifts: bool) -> Normal:
        """Return C and R = C_tx − W C, from second moments where the outputs cannot shift."""
        gram = self.covariance() if shifts else self.second
        return Primal(gram, (self.cross_covariance() if shifts else self.cross) - matrix @ gram)

    def sums(self) -> Sums:
        """Return the moments themselves."""
        return self

    def with_more(self, other: Sums) -> Sums:
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        own = self.count / count
        return Sums(
            count,
            other.mean.lerp(self.mean, own),
            other.second.lerp(self.second, own),
            other.target.lerp(self.target, own),
            other.cross.lerp(self.cross, own),
            other.target_second.lerp(self.target_second, own),
        )


@dataclass(frozen=True, slots=True)
class FewRows(Moments):
    """Rows in place of moments, for far fewer rows than inputs: memory and time grow with n², not with D².

    ``second`` and ``cross`` are computed on each access; `error` and `normal` do not need them.

    Shapes: inputs (G, n, D), targets (G, n, O), of any float dtype.
    """

    inputs: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        """Number of rows n."""
        return self.inputs.shape[1]

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return self.inputs.mean(1, dtype=torch.float64)

    @property
    def second(self) -> Tensor:
        """E[xxᵀ], computed on each access."""
        return _squared(self.inputs.to(torch.float64)).div_(self.count)

    @property
    def target(self) -> Tensor:
        """E[t]."""
        return self.targets.mean(1, dtype=torch.float64)

    @property
    def cross(self) -> Tensor:
        """E[t xᵀ], computed on each access."""
        return self.targets.to(torch.float64).mT @ self.inputs.to(torch.float64) / self.count

    @property
    def target_second(self) -> Tensor:
        """E[t²]."""
        return self.targets.to(torch.float64).square().mean(1)

    def error(self, matrix: Tensor, bias: Tensor) -> Tensor:
        """Return E(t − Wx − b)² of every output, (G, O)."""
        return (self._residual(matrix) - bias.unsqueeze(1)).square().mean(1)

    def normal(self, matrix: Tensor, *, shifts: bool) -> Normal:
        """Return the equations in dual form."""
        rest = self._residual(matrix)
        mean = self.mean.unsqueeze(1) if shifts else torch.zeros_like(self.mean).unsqueeze(1)
        return Dual.of(self.inputs, mean, rest - rest.mean(1, keepdim=True) if shifts else rest)

    def sums(self) -> Sums:
        """Return the moments of the rows."""
        return Moments.of(self.inputs, self.targets)

    def __add__(self, other: Moments) -> Moments:
        """Return both together: as rows while there are few, else as moments."""
        if isinstance(other, FewRows) and self.inputs.shape[2] == other.inputs.shape[2]:
            both = [torch.cat(part, 1) for part in ((self.inputs, other.inputs), (self.targets, other.targets))]
            return _from_rows(both[0], both[1])
        return Moments.__add__(self, other)

    def _residual(self, matrix: Tensor) -> Tensor:
        """Return t − Wx of every row, (G, n, O)."""
        residual = self.targets.to(torch.float64)
        for start in range(0, self.inputs.shape[2], COLUMNS):
            part = slice(start, start + COLUMNS)
            residual = residual - self.inputs[:, :, part].to(torch.float64) @ matrix[:, :, part].mT
        return residual


class MomentsSum:
    """Moments of rows and of moments that come one after another.

    Rows are joined first, because one large product costs less than many small ones. So many of them are held at once
    as ``most_bytes`` of float64 allow; where there may be far fewer rows than inputs, all of them are held until they
    are too many for `FewRows`.
    """

    def __init__(self, most_bytes: int = 1 << 28) -> None:
        self._most_bytes, self._bytes, self._rows = most_bytes, 0, 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._total: Moments | None = None

    def add(self, part: tuple[Tensor, Tensor] | Moments) -> None:
        """Add moments, or rows (inputs, targets) as `Moments.of` takes them."""
        if isinstance(part, Moments):
            self._merge(part)
            return
        inputs, targets = part
        self._waiting.append(part)
        self._bytes += 8 * (inputs.numel() + targets.numel())
        self._rows += inputs.shape[1]
        few = self._total is None and 2 * self._rows <= inputs.shape[2]
        if self._bytes >= self._most_bytes and not few:
            self._merge(Moments.of(*self._joined()))

    def result(self) -> Moments:
        """Return the moments of all that was added.

        Raises: DataError: nothing was.
        """
        if self._waiting:
            self._merge(_from_rows(*self._joined()) if self._total is None else Moments.of(*self._joined()))
        return merged([] if self._total is None else [self._total])

    def _merge(self, part: Moments) -> None:
        self._total = part if self._total is None else self._total + part

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Return all rows that wait in one tensor each; none wait afterwards."""
        inputs, targets = (torch.cat(part, 1) for part in zip(*self._waiting, strict=True))
        self._waiting, self._bytes, self._rows = [], 0, 0
        return inputs, targets


def moments_of(parts: Iterable[tuple[Tensor, Tensor] | Moments], *, most_bytes: int = 1 << 28) -> Moments:
    """Return the moments of rows and of moments that are given in parts; see `MomentsSum`.

    Raises: DataError: no parts.
    """
    total = MomentsSum(most_bytes)
    for part in parts:
        total.add(part)
    return total.result()


def _from_rows(inputs: Tensor, targets: Tensor) -> Moments:
    few = 2 * inputs.shape[1] <= inputs.shape[2]
    return FewRows(inputs, targets) if few else Moments.of(inputs, targets)


def _squared(x: Tensor) -> Tensor:
    """Return xᵀx; for many columns only the part on and above the diagonal is computed.

    Shapes: (G, n, D) → (G, D, D).
    """
    width = x.shape[2]
    if width < 2 * _BLOCK:
        return x.mT @ x
    square = x.new_empty(len(x), width, width)
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        square[:, start:stop, start:] = x[:, :, start:stop].mT @ x[:, :, start:]
        square[:, stop:, start:stop] = square[:, start:stop, stop:].mT
    return square


def merged(parts: list[Moments]) -> Moments:
    """Return the moments of all parts together.

    Raises: DataError: no parts.
    """
    if not parts:
        raise DataError("no calibration batch was given; pass at least one.")
    return reduce(lambda a, b: a + b, parts)
