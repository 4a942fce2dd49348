"""Window masks: tiles, strips and kernel positions are kept or masked as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from prunus.errors import BudgetError, OptionError
from prunus.masks.flat import check_finite, flatten, unflatten
from prunus.masks.ranking import resolve_count

Scope = Literal["layer", "filter", "group"]
Direction = Literal["input", "unit"]


class Window(Protocol):
    """Divide a weight of shape (O, I, *K) into windows."""

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the window of every weight from 0, without gaps. Shapes: (O, I, *K) → (O, I, *K), int64."""
        ...


@dataclass(frozen=True, slots=True)
class Tile:
    """Tiles of ``rows`` × ``columns`` on the matrix view (O, I·kh·kw); the last row and column may be smaller.

    ``Tile(1, n)`` is a strip of n inputs of one unit, ``Tile(n, 1)`` one input of n units.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise OptionError(f"a tile is {self.rows} × {self.columns}; allowed are sides of at least 1.")

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the tiles row by row. Shapes: (O, I, *K) → (O, I, *K), int64."""
        width = math.prod(shape[1:])
        row = torch.arange(shape[0]) // self.rows
        column = torch.arange(width) // self.columns
        return (row[:, None] * math.ceil(width / self.columns) + column).reshape(shape)


@dataclass(frozen=True, slots=True)
class Strip:
    """``length`` weights in a line at one kernel position; the last strip of a line may be shorter.

    Unlike ``Tile(1, n)``, which divides the flattened (I·kh·kw), a strip never crosses kernel positions: its weights
    multiply neighbouring channels of one pixel, which one vector instruction loads.

    Attributes:
        length: weights in a strip.
        along: "input" 1×n, consecutive inputs of one unit; "unit" n×1, one input of consecutive units.
    """

    length: int
    along: Direction = "input"

    def __post_init__(self) -> None:
        if self.length < 1:
            raise OptionError(f"a strip has length {self.length}; allowed is at least 1.")
        if self.along not in ("input", "unit"):
            raise OptionError(f"along is {self.along!r}; allowed are 'input' and 'unit'.")

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the strips line by line. Shapes: (O, I, *K) → (O, I, *K), int64."""
        outputs, inputs, positions = shape[0], shape[1], math.prod(shape[2:])
        unit = torch.arange(outputs)[:, None, None]
        channel = torch.arange(inputs)[:, None]
        position = torch.arange(positions)
        if self.along == "input":
            strips = math.ceil(inputs / self.length)
            return ((unit * positions + position) * strips + channel // self.length).reshape(shape)
        return ((unit // self.length * inputs + channel) * positions + position).reshape(shape)


@dataclass(frozen=True, slots=True)
class KernelPosition:
    """One position (y, x) of the kernel: in the whole layer, in one filter, or in one filter's channel group.

    Attributes:
        scope: "layer" O·I weights a window, "filter" I weights, "group" ``channels`` weights.
        channels: input channels in a group, for scope "group".
        strip: a weight without a kernel (linear, 1×1 convolution) has one position only, and one window a row would
            mask whole units, so it is divided into strips of this many inputs.
    """

    scope: Scope = "filter"
    channels: int = 4
    strip: int = 8

    def __post_init__(self) -> None:
        if self.scope not in ("layer", "filter", "group"):
            raise OptionError(f"scope is {self.scope!r}; allowed are 'layer', 'filter' and 'group'.")
        if self.channels < 1 or self.strip < 1:
            raise OptionError(f"channels is {self.channels}, strip is {self.strip}; allowed is at least 1.")

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the windows filter by filter. Shapes: (O, I, *K) → (O, I, *K), int64."""
        outputs, inputs, positions = shape[0], shape[1], math.prod(shape[2:])
        if positions == 1:
            return Tile(1, self.strip).labels(shape)
        position = torch.arange(positions)
        if self.scope == "layer":
            return position.expand(outputs, inputs, positions).reshape(shape)
        channels = self.channels if self.scope == "group" else inputs
        group = torch.arange(outputs)[:, None] * math.ceil(inputs / channels) + torch.arange(inputs) // channels
        return (group[:, :, None] * positions + position).reshape(shape)


@dataclass(frozen=True, slots=True)
class Kernel:
    """``rows`` × ``columns`` neighbouring positions of one kernel; the last of a row or column may be smaller.

    A window belongs to one filter and one input channel; one as large as the kernel is a whole kernel slice. Kernels of
    one dim are cut by ``columns`` alone, and every slice of a kernel of three dims on its own. A weight without a
    kernel (linear, 1×1 convolution) is divided into strips of rows · columns inputs, so that windows are of one size.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise OptionError(f"a window of a kernel is {self.rows} × {self.columns}; allowed are sides of at least 1.")

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the windows kernel by kernel. Shapes: (O, I, *K) → (O, I, *K), int64."""
        outputs, inputs, *kernel = shape
        if math.prod(kernel) == 1:
            return Strip(self.rows * self.columns).labels(shape)
        sides = [1] * len(kernel)
        sides[-2:] = [self.rows, self.columns][-len(kernel) :]
        number = torch.arange(outputs * inputs).reshape(outputs, inputs, *[1] * len(kernel))
        for dim, (size, side) in enumerate(zip(kernel, sides, strict=True), 2):
            along = (torch.arange(size) // side).reshape([-1 if d == dim else 1 for d in range(len(shape))])
            number = number * math.ceil(size / side) + along
        return number.expand(shape).contiguous()


@dataclass(frozen=True, slots=True)
class InputPositions:
    """Windows of ``rows`` × ``columns`` positions of the map that a weight reads, over all units and channels.

    Attributes:
        rows, columns: sides of a window; the last of a row or column may be smaller.
        place: position of every input, as (row, column). Shapes: (I, 2), int64.
    """

    rows: int
    columns: int
    place: Tensor

    def labels(self, shape: tuple[int, ...]) -> Tensor:
        """Number the windows row by row. Shapes: (O, I, *K) → (O, I, *K), int64."""
        row, column = self.place[:, 0] // self.rows, self.place[:, 1] // self.columns
        number = row * (int(column.max()) + 1) + column
        return number.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).contiguous()


Windows = Window | Mapping[str, Window]
"""One window for all tensors, or name → window."""


def window_masks(
    scores: Mapping[str, Tensor],
    window: Windows,
    *,
    kept: float | None = None,
    keep_count: int | None = None,
    floor: bool = True,
    whole: bool = False,
    input_dims: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Keep the best windows over all tensors until exactly n weights are kept.

    s_window = Σ_{w∈window} s_w / |window|: the mean, so that smaller windows at a border are comparable.
    Windows are taken best first (ties: first tensor, lowest number). Of the first that no longer fits only the
    best weights are kept, so that n is met exactly and at most one window of the network is broken. A larger n only
    adds weights.

    Args:
        scores: weight name → scores, higher = keep; any weight criterion.
        window: `Tile`, `Kernel`, `KernelPosition` or anything with ``labels``; or name → window.
        kept: share of all weights to keep.
        keep_count: exact number of weights to keep; give this or ``kept``.
        floor: take the best window of every tensor first, so that no layer is emptied.
        whole: mask the window that does not fit instead of breaking it: at most n weights, only whole windows.
        input_dims: name → dim that holds the inputs where it is not 1, see `contracted_dims`.

    Returns:
        Name → boolean mask of the same shape, True = keep.

    Raises:
        OptionError: the budget is out of range, or a tensor has fewer than two dims.
        DataError: no tensors, or a score is not finite.
        BudgetError: the floors alone hold more weights than the budget.
    """
    flat = flatten(scores)
    count = resolve_count(flat.numel(), kept, keep_count)
    labels, spans = _number(scores, window, input_dims or {})
    sizes = torch.bincount(labels)
    means = torch.zeros(sizes.numel(), dtype=torch.float64).index_add_(0, labels, flat) / sizes
    forced = _best_windows(means, spans) if floor else torch.empty(0, dtype=torch.int64)
    if int(sizes[forced].sum()) > count:
        raise BudgetError(
            f"keeping {count} weights is less than the {int(sizes[forced].sum())} in the best window of each tensor; "
            "keep more, or use smaller windows."
        )
    means[forced] = math.inf
    order = torch.argsort(means, descending=True, stable=True)
    filled = torch.cumsum(sizes[order], 0)
    fits = int((filled <= count).sum())
    chosen = torch.zeros(sizes.numel(), dtype=torch.bool)
    chosen[order[:fits]] = True
    mask = chosen[labels]
    left = count - int(mask.sum())
    if left and not whole:
        members = (labels == order[fits]).nonzero().reshape(-1)
        best = torch.argsort(flat[members], descending=True, stable=True)[:left]
        mask[members[best]] = True
    return unflatten(mask, scores)


def window_means(
    scores: Mapping[str, Tensor], window: Windows, *, input_dims: Mapping[str, int] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the mean score of every window of each tensor, and the window of every weight.

    Args:
        scores: weight name → scores, higher = keep; any weight criterion.
        window: `Tile`, `Kernel`, `KernelPosition` or anything with ``labels``; or name → window.
        input_dims: name → dim that holds the inputs where it is not 1, see `contracted_dims`.

    Returns:
        Name → means (windows,), float64; and name → number of the window of every weight, in the shape of the tensor.

    Raises:
        OptionError: a tensor has fewer than two dims.
        DataError: no tensors, or a score is not finite.
    """
    check_finite(scores)
    means, labels = {}, {}
    for name, score in scores.items():
        number = _labels(name, score, window, input_dims or {})
        flat = score.detach().reshape(-1).to(device="cpu", dtype=torch.float64)
        sizes = torch.bincount(number)
        means[name] = torch.zeros(sizes.numel(), dtype=torch.float64).index_add_(0, number, flat) / sizes
        labels[name] = number.reshape(score.shape)
    return means, labels


def _labels(name: str, score: Tensor, window: Windows, input_dims: Mapping[str, int]) -> Tensor:
    """Return the window of every weight of a tensor, flat."""
    if score.dim() < 2:
        raise OptionError(f"tensor {name!r} has {score.dim()} dims; windows need at least 2. Leave it out.")
    dim, own = input_dims.get(name, 1), window[name] if isinstance(window, Mapping) else window
    return own.labels(tuple(score.movedim(dim, 1).shape)).movedim(1, dim).reshape(-1)


def _number(
    scores: Mapping[str, Tensor], window: Windows, input_dims: Mapping[str, int]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Number the windows of all tensors in a row: the window of every weight, first and end window of every tensor."""
    labels: list[Tensor] = []
    spans: list[tuple[int, int]] = []
    start = 0
    for name, score in scores.items():
        if score.numel() == 0 and score.dim() >= 2:
            continue
        own = _labels(name, score, window, input_dims)
        labels.append(own + start)
        spans.append((start, start + int(own.max()) + 1))
        start = spans[-1][1]
    return torch.cat(labels), spans


def _best_windows(means: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    return torch.tensor([start + int(means[start:end].argmax()) for start, end in spans], dtype=torch.int64)
