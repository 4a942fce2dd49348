"""Literals of a graph ⇄ JSON: references, numbers, dtypes, devices, layouts; exactly, or as an opaque mark."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch

from prunus.graph.ir import Ref, TensorMeta
from prunus.surgery.rewriting.training_program import InTraining

_PLAIN = (bool, int, str)
_TORCH_NAMES: dict[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
# Read once from what torch holds already: asking a module for any name may import another one.
_BY_NAME = {
    key: {name: value for name, value in vars(torch).items() if isinstance(value, kind)}
    for key, kind in _TORCH_NAMES.items()
}
_DEVICE = re.compile(r"(cpu|cuda|xpu|mps|meta|hpu|npu|mtia|xla)(:\d{1,3})?", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """Stands for an object that has no JSON form; it is recognised by identity alone."""

    kind: str


@dataclass(slots=True)
class Objects:
    """The objects without a JSON form of one file: equal numbers stand for the same object."""

    seen: list[Any] = field(default_factory=list)
    marks: dict[int, Opaque] = field(default_factory=dict)

    def number(self, value: Any) -> int:
        """Return the number of an object while writing."""
        for i, known in enumerate(self.seen):
            if known is value:
                return i
        self.seen.append(value)
        return len(self.seen) - 1

    def mark(self, number: int, kind: str) -> Opaque:
        """Return the stand-in of an object while reading."""
        return self.marks.setdefault(number, Opaque(kind))


def encode_value(value: Any, objects: Objects) -> Any:
    """Return the JSON form of one argument or leaf; `decode_value` is its inverse.

    Example:
        >>> encode_value([Ref("x", 1), 2, float("inf"), torch.float16], Objects())
        [{'ref': ['x', 1]}, 2, {'float': 'inf'}, {'dtype': 'float16'}]
    """
    if value is None or type(value) in _PLAIN:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, InTraining):
        return {"switched": [encode_value(float(value), objects), encode_value(value.training, objects)]}
    if isinstance(value, Ref):
        return {"ref": [value.node, value.index]}
    if type(value) is list:
        return [encode_value(v, objects) for v in value]
    if type(value) is tuple:
        return {"tuple": [encode_value(v, objects) for v in value]}
    for key, kind in _TORCH_NAMES.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if type(value) is complex:
        return {"complex": [encode_value(value.real, objects), encode_value(value.imag, objects)]}
    if isinstance(value, slice):
        return {"slice": [encode_value(v, objects) for v in (value.start, value.stop, value.step)]}
    kind_name = f"{type(value).__module__}.{type(value).__qualname__}"
    return {"opaque": objects.number(value), "type": kind_name}


def decode_value(data: Any, objects: Objects) -> Any:
    """Return the value that `encode_value` wrote.

    Raises:
        ValueError: not a form that `encode_value` writes.
    """
    if data is None or type(data) in (*_PLAIN, float):
        return data
    if type(data) is list:
        return [decode_value(v, objects) for v in data]
    if type(data) is not dict or not data:
        raise ValueError(f"no literal: {str(data)[:40]!r}")
    key, body = next(iter(data.items()))
    if key == "ref":
        return _ref(body)
    if key == "opaque":
        return objects.mark(_integer(body), str(data.get("type", "object")))
    return _decode_named(key, body, objects)


def _decode_named(key: str, body: Any, objects: Objects) -> Any:
    if key == "float" and body in ("inf", "-inf", "nan"):
        return float(body)
    if key == "switched":
        return InTraining(*(float(decode_value(v, objects)) for v in body))
    if key == "tuple":
        return tuple(decode_value(v, objects) for v in body)
    if key == "complex":
        return complex(*(float(decode_value(v, objects)) for v in body))
    if key == "slice":
        return slice(*(decode_value(v, objects) for v in body))
    if key == "device":
        return _device(body)
    if key in _TORCH_NAMES:
        return _torch_name(key, body)
    raise ValueError(f"unknown literal {key!r}")


def _device(name: Any) -> torch.device:
    if type(name) is not str or not _DEVICE.fullmatch(name):
        raise ValueError(f"no device: {str(name)[:40]!r}")
    return torch.device(name)


def _torch_name(key: str, name: Any) -> Any:
    found = _BY_NAME[key].get(name) if type(name) is str else None
    if found is None:
        raise ValueError(f"torch has no {key} {name!r}")
    return found


def _ref(body: Any) -> Ref:
    node, index = body
    if type(node) is not str:
        raise ValueError(f"no node name: {node!r}")
    return Ref(node, _integer(index))


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"no count: {value!r}")
    return value


def encode_meta(meta: TensorMeta | None) -> Any:
    """Return ``[dtype, shape]`` of a value, or None for what is no tensor."""
    return None if meta is None else [str(meta.dtype).removeprefix("torch."), list(meta.shape)]


def decode_meta(data: Any) -> TensorMeta | None:
    """Return what `encode_meta` wrote."""
    if data is None:
        return None
    dtype, shape = data
    return TensorMeta(decode_shape(shape), _torch_name("dtype", dtype))


def decode_shape(data: Any) -> tuple[int, ...]:
    """Return a shape; every size must be a whole number from 0 on."""
    return tuple(_integer(n) for n in data)


def decode_dtype(name: Any) -> torch.dtype:
    """Return the dtype of a name such as ``float32``."""
    found: torch.dtype = _torch_name("dtype", name)
    return found
