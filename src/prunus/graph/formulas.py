"""The formulas of `shapes`: each returns the fake result of an op, or None where torch has to compute it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

Formula = Callable[..., "torch.Tensor | None"]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def _plain(x: Any) -> bool:
    """Tell whether ``x`` is a float tensor in row-major order, also in its dims of size one."""
    return (
        isinstance(x, torch.Tensor)
        and x.layout is torch.strided
        and x.dtype.is_floating_point
        and x.numel() > 0
        and x.stride() == _strides(x.shape)
    )


def _plain_fake(x: Any) -> bool:
    return is_unknown(x) and _plain(x)


def _channels_last(x: Any) -> bool:
    """Tell whether ``x`` is a fake float image on the CPU with channels last, in no other order too."""
    return (
        is_unknown(x)
        and x.fake_device.type == "cpu"
        and x.dtype.is_floating_point
        and x.dim() == 4
        and min(x.shape[1:]) > 1
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _empty_channels_last(like: FakeTensor, shape: Sequence[int]) -> torch.Tensor:
    with torch._C._DisableTorchDispatch():
        bare = torch.empty(tuple(shape), dtype=like.dtype, device="meta", memory_format=torch.channels_last)
    return FakeTensor(like.fake_mode, bare, like.fake_device)


def is_unknown(x: Any) -> bool:
    """Tell whether ``x`` is a fake tensor without a value; torch goes on computing with a value that it knows."""
    return isinstance(x, FakeTensor) and x.constant is None


def _empty(like: FakeTensor, shape: Sequence[int]) -> torch.Tensor:
    with torch._C._DisableTorchDispatch():
        bare = torch.empty_strided(tuple(shape), _strides(shape), dtype=like.dtype, device="meta")
    return FakeTensor(like.fake_mode, bare, like.fake_device)


def same(x: Any, *_: Any, dtype: Any = None, **__: Any) -> torch.Tensor | None:
    """Return the shape of elementwise ops, and of norms that keep the shape."""
    if dtype is not None:
        return None
    if _channels_last(x):
        return _empty_channels_last(x, x.shape)
    return _empty(x, x.shape) if _plain_fake(x) else None


def batch_norm(x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *_: Any) -> Any:
    """Return the shape of batch norm in evaluation."""
    fits = all(t is None or (t.dtype == x.dtype and t.shape == x.shape[1:2]) for t in (weight, bias, mean, variance))
    return _empty(x, x.shape) if _plain_fake(x) and x.dim() > 1 and fits and not training else None


def layer_norm(x: Any, shape: Sequence[int], weight: Any = None, bias: Any = None, *_: Any) -> Any:
    """Return the shape of layer norm over the last dims."""
    fits = all(t is None or (t.dtype == x.dtype and list(t.shape) == list(shape)) for t in (weight, bias))
    return _empty(x, x.shape) if _plain_fake(x) and list(x.shape[-len(shape) :]) == list(shape) and fits else None


def softmax(x: Any, dim: int, dtype: Any = None) -> torch.Tensor | None:
    """Return the shape of softmax over a dim that exists."""
    return same(x) if dtype is None and isinstance(x, torch.Tensor) and -x.dim() <= dim < x.dim() else None


def written(x: Any, *_: Any, **__: Any) -> torch.Tensor | None:
    """Return the argument of an activation that writes into it."""
    return x if is_unknown(x) and x.dtype.is_floating_point else None


def binary(a: Any, b: Any, **_: Any) -> torch.Tensor | None:
    """Return the shape of elementwise arithmetic of a tensor with a number or a tensor that broadcasts."""
    if type(b) in (int, float):
        return same(a)
    for image, other in ((a, b), (b, a)):
        if _channels_last(image) and _follows(other, image):
            return _empty_channels_last(image, image.shape)
    if not (_plain(a) and _plain(b)) or a.dtype != b.dtype or a.device != b.device:
        return None
    like = a if isinstance(a, FakeTensor) else b
    shape = _broadcast(a.shape, b.shape)
    return _empty(like, shape) if is_unknown(like) and shape is not None else None


def _follows(other: Any, image: torch.Tensor) -> bool:
    """Tell whether arithmetic with ``other`` leaves an image's shape and order: a like image, or one dim of numbers."""
    if not isinstance(other, torch.Tensor) or not _alike(other, image):
        return False
    if other.shape == image.shape:
        return _channels_last(other)
    line = _plain(other) and sum(n > 1 for n in other.shape) <= 1
    return line and _broadcast(other.shape, image.shape) == tuple(image.shape)


def _broadcast(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...] | None:
    rank = max(len(a), len(b))
    one, two = ((1,) * (rank - len(s)) + tuple(s) for s in (a, b))
    fits = all(x == y or 1 in (x, y) for x, y in zip(one, two, strict=True))
    return tuple(map(max, one, two)) if fits else None


def binary_written(a: Any, b: Any, **_: Any) -> Any:
    """Return the first operand, which the result is written into."""
    if not is_unknown(a) or not a.dtype.is_floating_point:
        return None
    if type(b) in (int, float):
        return a
    fits = isinstance(b, torch.Tensor) and b.dtype == a.dtype and b.device == a.device
    return a if fits and _broadcast(a.shape, b.shape) == tuple(a.shape) else None


def linear(x: Any, weight: Any, bias: Any = None) -> torch.Tensor | None:
    """Return the shape of a linear layer, (…, I) × (O, I) → (…, O)."""
    if not (is_unknown(x) and x.numel() and x.dtype.is_floating_point and _plain(weight)):
        return None
    if weight.dim() != 2 or x.dim() < 2:
        return None
    if x.shape[-1] != weight.shape[1] or not _alike(x, weight) or not _is_bias(bias, weight):
        return None
    return _empty(x, (*x.shape[:-1], weight.shape[0]))


def convolution(rank: int) -> Formula:
    """Return the formula of convolution in ``rank`` spatial dims.

    (B, G·I, *N) ∗ (O, I, *K) → (B, O, *⌊(N + 2p − d(K − 1) − 1)/s⌋ + 1)
    """

    def convolved(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = (1,),
        padding: Any = (0,),
        dilation: Any = (1,),
        groups: int = 1,
    ) -> torch.Tensor | None:
        last = _channels_last(x)
        if not ((_plain_fake(x) or last) and _plain(weight) and _alike(x, weight)):
            return None
        if not x.dim() == weight.dim() == rank + 2:
            return None
        if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups or not _is_bias(bias, weight):
            return None
        strides, paddings, dilations = (_each(v, rank) for v in (stride, padding, dilation))
        if strides is None or paddings is None or dilations is None:
            return None
        spaces = zip(x.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spaces]
        if min(sizes) <= 0:
            return None
        shape = (x.shape[0], weight.shape[0], *sizes)
        return _empty_channels_last(x, shape) if last else _empty(x, shape)

    return convolved


def _each(value: Any, rank: int) -> Sequence[int] | None:
    value = [value] if isinstance(value, int) else list(value)
    return value * rank if len(value) == 1 else value if len(value) == rank else None


def _alike(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return x.dtype == weight.dtype and x.device == weight.device


def _is_bias(bias: Any, weight: torch.Tensor) -> bool:
    return bias is None or (tuple(bias.shape) == (weight.shape[0],) and _alike(bias, weight))


def pooled(x: Any, size: Any) -> torch.Tensor | None:
    """Return the shape of average pooling to a given size."""
    sizes = _each(size, 2)
    return _empty(x, (*x.shape[:-2], *sizes)) if _plain_fake(x) and x.dim() == 4 and sizes and min(sizes) > 0 else None


def joined(tensors: Any, dim: int = 0) -> torch.Tensor | None:
    """Return the shape of concatenation along a dim."""
    first = tensors[0]
    if not all(_plain_fake(t) and t.dim() == first.dim() and _alike(t, first) for t in tensors):
        return None
    if not -first.dim() <= dim < first.dim():
        return None
    dim %= first.dim()
    rest = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    shape = (*first.shape[:dim], sum(t.shape[dim] for t in tensors), *first.shape[dim + 1 :])
    return _empty(first, shape) if len(rest) == 1 and math.prod(shape) else None


def gru(
    x: Any,
    state: Any,
    weights: Any,
    biased: bool,
    layers: int,
    dropout: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> Any:
    """Return the shapes of a GRU, (B, T, I) → (B, T, D·H) and (L·D, B, H); fake tensors would run all T steps."""
    directions = 2 if both_ways else 1
    if not (is_unknown(x) and x.dim() == 3 and x.dtype.is_floating_point and x.numel() and _plain(state)):
        return None
    if (train and dropout) or state.dim() != 3 or not all(_plain(w) and _alike(w, x) for w in (state, *weights)):
        return None
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    hidden = state.shape[2]
    inputs = [x.shape[2]] + [directions * hidden] * (layers - 1)
    sizes = [
        shape
        for i in inputs
        for shape in directions * [(3 * hidden, i), (3 * hidden, hidden), *biased * 2 * [(3 * hidden,)]]
    ]
    if tuple(state.shape) != (layers * directions, batch, hidden) or [tuple(w.shape) for w in weights] != sizes:
        return None
    out = _empty(x, (steps, batch, directions * hidden))
    return (out.transpose(0, 1) if batch_first else out), _empty(x, state.shape)
