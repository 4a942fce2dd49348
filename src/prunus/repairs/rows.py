"""The rows of a layer's least-squares problem: inputs (im2col for convolutions) and target outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from prunus.graph.ir import Node
from prunus.repairs.moments import Sums
from prunus.repairs.shifted_moments import Windows, pays, shifted_moments
from prunus.repairs.sites import Site

Rows = tuple[Tensor, Tensor]


def site_moments(
    site: Site, node: Node, inputs: Tensor, targets: Tensor, most: int, generator: torch.Generator
) -> Rows | Sums:
    """Return the rows of a layer as `site_rows` does, or the moments of all of them where those cost less."""
    if site.kind == "conv":
        padded, dims = _windows(node, site, inputs, targets)
        if pays(dims, len(inputs), inputs.shape[1] // site.groups, most):
            return shifted_moments(dims, site.groups, padded(), targets)
    return site_rows(site, node, inputs, targets, most, generator)


def _windows(node: Node, site: Site, inputs: Tensor, targets: Tensor) -> tuple[Callable[[], Tensor], list[Windows]]:
    """Return a call that pads the inputs of a convolution, and its windows by dim."""
    kernel = site.shape[2:]
    stride, dilation = (_each(node.get(name, 1), len(kernel)) for name in ("stride", "dilation"))
    dims = [Windows(*own) for own in zip(kernel, targets.shape[2:], stride, dilation, strict=True)]
    return lambda: functional.pad(inputs, _padding(node.get("padding", 0), kernel, dilation)), dims


def site_rows(site: Site, node: Node, inputs: Tensor, targets: Tensor, most: int, generator: torch.Generator) -> Rows:
    """Return the inputs and target outputs of a layer, one row for each application.

    Where there are more than ``most`` rows, ``most`` are drawn at random.

    Shapes: → (G, n, D), (G, n, O/G).
    """
    if site.kind == "linear":
        return linear_rows(inputs, targets, most, generator)
    return conv_rows(site, node, inputs, targets, most, generator)


def linear_rows(inputs: Tensor, targets: Tensor, most: int, generator: torch.Generator) -> Rows:
    """Return all rows, or ``most`` drawn at random.

    Shapes: inputs (…, D), targets (…, O) → (1, n, D), (1, n, O).
    """
    x, t = inputs.reshape(-1, inputs.shape[-1]), targets.reshape(-1, targets.shape[-1])
    if len(x) > most:
        index = torch.randperm(len(x), generator=generator)[:most].to(x.device)
        x, t = x[index], t[index]
    return x.unsqueeze(0), t.unsqueeze(0)


def conv_rows(site: Site, node: Node, inputs: Tensor, targets: Tensor, most: int, generator: torch.Generator) -> Rows:
    """Return the patches under the kernel at all positions, or at ``most`` drawn at random; only those are copied.

    Shapes: inputs (B, C, …), targets (B, O, …) → (G, n, C/G·K), (G, n, O/G).
    """
    patches = _patches(node, site, inputs)
    rank = len(site.shape) - 2
    spatial = targets.shape[2:]
    total = len(targets) * spatial.numel()
    if total <= most:
        x = patches.movedim(1, 1 + rank).reshape(total, site.groups, -1)
        t = targets.movedim(1, 1 + rank).reshape(total, site.groups, -1)
    else:
        # Positions are drawn with replacement, which avoids a permutation of millions.
        flat = torch.randint(total, (most,), generator=generator)
        first, *rest = (i.to(inputs.device) for i in torch.unravel_index(flat, (len(targets), *spatial)))
        at: tuple[Tensor | slice, ...] = (first, slice(None), *rest)
        x = patches[at].reshape(most, site.groups, -1)
        t = targets[at].reshape(most, site.groups, -1)
    return x.transpose(0, 1), t.transpose(0, 1)


def _patches(node: Node, site: Site, inputs: Tensor) -> Tensor:
    """Return a view of the padded input, (B, C, *outputs, *kernel)."""
    kernel = site.shape[2:]
    rank = len(kernel)
    stride, dilation = _each(node.get("stride", 1), rank), _each(node.get("dilation", 1), rank)
    if site.kind == "transposed":
        view, stride = _spread(node, inputs, kernel, stride, dilation), [1] * rank
    else:
        view = functional.pad(inputs, _padding(node.get("padding", 0), kernel, dilation))
    for d in range(rank):
        reach = (kernel[d] - 1) * dilation[d] + 1
        view = view.unfold(2 + d, reach, stride[d])[..., :: dilation[d]]
    return view


def _spread(node: Node, inputs: Tensor, kernel: Sequence[int], stride: list[int], dilation: list[int]) -> Tensor:
    """Return the input of a transposed convolution with zeros between and around, to be convolved at stride 1.

    Shapes: (B, C, n, …) → (B, C, (n − 1)·stride + 1 + 2·(dilation·(K − 1) − padding) + output padding, …).
    """
    rank = len(kernel)
    padding, extra = _each(node.get("padding", 0), rank), _each(node.get("output_padding", 0), rank)
    sizes = [(n - 1) * s + 1 for n, s in zip(inputs.shape[2:], stride, strict=True)]
    spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = inputs
    around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return functional.pad(
        spread, [n for a, e in zip(reversed(around), reversed(extra), strict=True) for n in (a, a + e)]
    )


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Return the padding in the form of `pad`: the last dim first, before and after."""
    if padding == "same":
        reaches = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        sides = [(n // 2, n - n // 2) for n in reaches]
    else:
        amounts = [0] * len(kernel) if padding == "valid" else _each(padding, len(kernel))
        sides = [(n, n) for n in amounts]
    return [n for side in reversed(sides) for n in side]


def _each(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def norm_rows(inputs: Tensor, targets: Tensor, dim: int) -> Rows:
    """Return one row for each position, with every channel as a group.

    Shapes: (…, C, …) twice → (C, n, 1) twice.
    """
    x, t = (v.movedim(dim, 0).reshape(v.shape[dim], -1, 1) for v in (inputs, targets))
    return x, t
