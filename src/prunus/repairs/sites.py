"""Sites of a repair: layers with their weight, and the norms between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from prunus.graph.ir import Ref

Kind = Literal["linear", "conv", "transposed"]


@dataclass(frozen=True, slots=True)
class Site:
    """A layer y = Wx + b in the small program.

    Attributes:
        node: the name of its node in the program.
        kind: ``linear``, ``conv`` or ``transposed``, a transposed convolution.
        tensor, bias: names of weight and bias; the bias is "" where there is none, or where other nodes read it too.
        groups: the groups of a convolution, else 1.
        shape: the shape of the weight.
        reads: the input value.
        turned: the weight is stored as (inputs, outputs), as in x @ W.
        constant: a value that is added to the outputs and not fitted: a bias that other nodes read too.
        others: the other layers that read the same weight, in the order of the program; the fit is to all of them.
    """

    node: str
    kind: Kind
    tensor: str
    bias: str
    groups: int
    shape: tuple[int, ...]
    reads: Ref
    turned: bool = False
    constant: Ref | None = None
    others: tuple[Site, ...] = ()

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (G, O/G, D), D = inputs of a group × kernel positions."""
        if self.kind == "transposed":
            return self._swapped(weight.reshape(self._split)).reshape(self.groups, self.shape[1], -1)
        rows = weight.t() if self.turned else weight
        return rows.reshape(self.groups, rows.shape[0] // self.groups, -1)

    def weight(self, matrix: Tensor) -> Tensor:
        """Return the weight for a matrix of the form that `matrix` returns: its inverse."""
        if self.kind == "transposed":
            groups, inputs, outputs, *kernel = self._split
            return self._swapped(matrix.reshape(groups, outputs, inputs, *kernel)).reshape(self.shape)
        flat = matrix.reshape(-1, matrix.shape[2])
        return flat.t().contiguous() if self.turned else flat.reshape(self.shape)

    @property
    def positions(self) -> int:
        """The number of inputs of a group for each channel: the kernel's positions."""
        return 1 if self.kind == "linear" else math.prod(self.shape[2:])

    @property
    def inputs(self) -> int:
        """The number D of inputs of a group, kernel positions included."""
        if self.kind == "transposed":
            return self.shape[0] // self.groups * self.positions
        return self.shape[0] if self.turned else math.prod(self.shape[1:])

    @property
    def plain(self) -> bool:
        """True for a linear layer or a convolution that is the only reader of its weight."""
        return not self.others and self.kind != "transposed"

    @property
    def _split(self) -> tuple[int, ...]:
        return (self.groups, self.shape[0] // self.groups, *self.shape[1:])

    def _swapped(self, weight: Tensor) -> Tensor:
        """Flip the kernel: a transposed convolution is a convolution of spread inputs with a flipped kernel."""
        return weight.transpose(1, 2).flip(tuple(range(3, weight.dim())))


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation with a scale of its own per channel.

    ``mean`` and ``variance`` name the running statistics of a batch norm, "" elsewhere; ``dim`` is the channels' dim.
    """

    node: str
    weight: str
    bias: str
    mean: str
    variance: str
    reads: Ref
    dim: int
