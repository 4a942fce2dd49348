"""Compute in another float type without changing the code that runs: its dtype literals become that type.

Torch's default type belongs to the whole process and is left alone: both modes act in one thread only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Replace(TorchFunctionMode):
    """A mode that replaces every float dtype in a call by ``dtype``, also in ``x.float()`` and ``x.half()``."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.casts = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.casts:
            return args[0].to(self.dtype)
        if self.dtype is torch.float64 and getattr(func, "__name__", "").split(".")[0] in ("_grouped_mm", "grouped_mm"):
            return grouped_product(*args, **(kwargs or {}))
        named = {k: self._wide(v) for k, v in (kwargs or {}).items()}
        out = func(*(self._wide(a) for a in args), **named)
        if func in _OF_DATA and _is_new_float(out, args, named):
            return func(*args, **{**named, "dtype": _as_complex(self.dtype) if out.is_complex() else self.dtype})
        if func is torch.where and len(args) == 3 and isinstance(args[1], float) and isinstance(args[2], float):
            return func(args[0], *(torch.tensor(number, dtype=self.dtype, device=out.device) for number in args[1:]))
        return out

    def _wide(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value in NARROW else value


_OF_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
_WINDOWS = ("hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window")
_SEQUENCES = ("linspace", "logspace", "eye", "scalar_tensor")
_FLOAT_FACTORIES = frozenset(
    ("zeros", "ones", "empty", "empty_strided", "rand", "randn", "normal", *_SEQUENCES, *_WINDOWS)
)
# Their type follows from their numbers.
_NUMBER_FACTORIES = frozenset(("arange", "range", "full"))


def _is_new_float(out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether numbers of Python became a tensor of the default float type."""
    data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
    given = kwargs.get("dtype") is not None or hasattr(data, "dtype")
    return not given and isinstance(out, torch.Tensor) and out.dtype in _default_types()


def _default_types() -> tuple[torch.dtype, torch.dtype]:
    """Return torch's default type, real and complex."""
    real = torch.get_default_dtype()
    return real, _as_complex(real)


def _as_complex(dtype: torch.dtype) -> torch.dtype:
    return {torch.float64: torch.complex128, torch.float16: torch.complex32}.get(dtype, torch.complex64)


class _Default(TorchDispatchMode):
    """A mode that gives new float tensors ``dtype``, and results of whole numbers that become floats.

    It sees the ops that other ops are made of too, which a function mode does not.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _CONVOLUTION and not kwargs:
            out = small_images(*args)
            if out is not None:
                return out
        makes, is_pointwise = _kind_of(func)
        if makes:
            return self._made(func, makes, args, kwargs)
        out = func(*args, **kwargs)
        if is_pointwise and isinstance(out, torch.Tensor) and out.dtype is torch.get_default_dtype():
            tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            # A number of Python arrives as a tensor without dims.
            if tensors and not any(t.is_floating_point() and (t.dim() or t.dtype in NARROW) for t in tensors):
                wide = pytree.tree_map_only(torch.Tensor, lambda t: t.to(self.dtype), (args, kwargs))
                return func(*wide[0], **wide[1])
        return out

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        free = any(a.name == "dtype" for a in func._schema.arguments) and kwargs.get("dtype") is None
        floats = name in _FLOAT_FACTORIES or any(isinstance(x, float) for x in pytree.tree_leaves((args, kwargs)))
        return func(*args, **{**kwargs, "dtype": self.dtype} if free and floats else kwargs)


@functools.cache
def _kind_of(func: Any) -> tuple[str, bool]:
    """Return the name of an op if it makes a tensor of numbers, else nothing; and whether it is elementwise."""
    name = func.overloadpacket.__name__
    makes = name in _FLOAT_FACTORIES or name in _NUMBER_FACTORIES
    return name if makes else "", torch.Tag.pointwise in func.tags


_CONVOLUTION = torch.ops.aten.convolution.default
_GROUPS, _PRODUCTS = 16, 600
"""The least number of groups, and the most products in one output channel, where one matrix product is faster."""
_PIXELS = 16
"""The most output pixels of a sample where a batch is faster as one product: its weights are then read once."""


def small_images(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor | None:
    """Convolve small images, (B, G·I, H, W) → (B, G·O, H', W'), as one product; None where torch's kernel is better.

    That kernel for float64 on the CPU runs each group of each sample by itself, which takes longer than computing.
    """
    if transposed or x.dim() != 4 or x.dtype is not torch.float64 or x.device.type != "cpu" or not x.is_contiguous():
        return None
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, p, d, s in zip(x.shape[2:], weight.shape[2:], padding, dilation, stride, strict=False)
    ]
    if len(sizes) != 2 or min(sizes) < 1:
        return None
    products, pixels = weight[0].numel(), sizes[0] * sizes[1]
    as_batch = groups == 1 and len(x) > 1 and pixels <= _PIXELS
    if not as_batch and not (groups >= _GROUPS and products * pixels <= _PRODUCTS):
        return None
    columns = nn.functional.unfold(x, tuple(weight.shape[2:]), tuple(dilation), tuple(padding), tuple(stride))
    if as_batch:
        out = weight.reshape(-1, products) @ columns.transpose(0, 1).reshape(products, -1)
        out = out.view(-1, len(x), *sizes).transpose(0, 1)
    else:
        out = weight.reshape(groups, -1, products) @ columns.view(len(x), groups, products, pixels)
        out = out.view(len(x), -1, *sizes)
    return (out if bias is None else out + bias[:, None, None]).contiguous()


def grouped_product(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Multiply rows (T, K) by the matrix of their group, (G, K, N) → (T, N); torch's kernel has no float64."""
    if offs is None or mat_a.dim() == 3:
        return mat_a @ mat_b
    stops = [int(v) for v in offs]
    rows = [mat_a[start:stop] @ mat_b[g] for g, (start, stop) in enumerate(zip([0, *stops], stops, strict=False))]
    out = torch.cat([*rows, mat_a.new_zeros(len(mat_a) - stops[-1], mat_b.shape[-1])])
    return out if bias is None else out + bias


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Run a block in which dtype literals and new float tensors have ``dtype``; existing tensors keep theirs.

    Other threads are not affected.
    """
    with _Default(dtype), _Replace(dtype):
        yield
