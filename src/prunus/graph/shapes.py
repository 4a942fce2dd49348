"""Shapes of the commonest ops by formula: fake tensors give the same shapes ten times slower.

A formula answers only in safe cases: floats of one dtype in canonical row-major order, sizes that fit. Views call
torch's own shape kernel directly. Everything else, including errors, is left to fake tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

from prunus.graph import formulas
from prunus.graph.formulas import Formula

_aten = torch.ops.aten


def by_formula(func: Any, args: Sequence[Any], kwargs: Any) -> torch.Tensor | None:
    """Return the fake result of an op, or None where fake tensors have to compute it."""
    formula = _FORMULAS.get(func)
    if torch._C._is_any_autocast_enabled():
        return None
    if formula is not None:
        return formula(*args, **kwargs)
    return _straight(func, args, kwargs) if func in _STRAIGHT else None


def _straight(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """Call torch's shape kernel directly, without the dispatch of fake tensors."""
    like = args[0]
    tensors: list[Any] = [x for x in args if isinstance(x, torch.Tensor)]
    if not all(formulas.is_unknown(x) and x.fake_device == like.fake_device for x in tensors):
        return None
    with in_kernel_invocation_manager(like.fake_mode), torch._C._DisablePythonDispatcher():
        out = func(*args, **kwargs)
    if isinstance(out, (tuple, list)):
        return type(out)(_faked(like, x) for x in out)
    return _faked(like, out)


def _faked(like: FakeTensor, out: torch.Tensor) -> torch.Tensor:
    return out if isinstance(out, FakeTensor) else FakeTensor(like.fake_mode, out, like.fake_device)


def _dropout(x: Any, p: float, train: bool) -> torch.Tensor | None:
    # Another object than x: readers of x and of dropout(x) differ in training.
    return _straight(_aten.alias.default, (x,), {}) if isinstance(x, FakeTensor) and not train else None


def _formulas() -> dict[Any, Formula]:
    table: dict[Any, Formula] = {
        _aten.batch_norm.default: formulas.batch_norm,
        _aten.layer_norm.default: formulas.layer_norm,
        _aten.softmax.int: formulas.softmax,
        _aten.dropout.default: _dropout,
        _aten.linear.default: formulas.linear,
        _aten.conv1d.default: formulas.convolution(1),
        _aten.conv2d.default: formulas.convolution(2),
        _aten.conv3d.default: formulas.convolution(3),
        _aten.adaptive_avg_pool2d.default: formulas.pooled,
        _aten.cat.default: formulas.joined,
        _aten.gru.input: formulas.gru,
    }
    same = "relu gelu silu sigmoid tanh hardswish hardsigmoid hardtanh relu6 leaky_relu elu mish exp neg abs sqrt rsqrt"
    table |= {getattr(_aten, name).default: formulas.same for name in same.split()}
    written = "relu_ silu_ sigmoid_ tanh_ hardswish_ hardsigmoid_ hardtanh_ relu6_ leaky_relu_ elu_ mish_"
    table |= {getattr(_aten, name).default: formulas.written for name in written.split()}
    table |= {getattr(_aten, name).Tensor: formulas.binary for name in ("add", "sub", "mul", "div")}
    return table | {getattr(_aten, f"{name}_").Tensor: formulas.binary_written for name in ("add", "sub", "mul", "div")}


def _straight_ops() -> frozenset[Any]:
    names = """view.default reshape.default flatten.using_ints unflatten.int permute.default transpose.int t.default
    unsqueeze.default squeeze.dim select.int slice.Tensor narrow.default split.Tensor split_with_sizes.default
    chunk.default unbind.int expand.default contiguous.default matmul.default bmm.default roll.default"""
    return frozenset(getattr(getattr(_aten, a), b) for a, b in (name.split(".") for name in names.split()))


_FORMULAS, _STRAIGHT = _formulas(), _straight_ops()
