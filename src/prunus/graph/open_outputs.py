"""Flattening of results that pytree takes for one leaf: caches and other plain objects that hold tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import CaptureError

_DEPTH = 6
_local: dict[str, type] = {}


class Opened:
    """Stands for an object while its attributes are leaves; never reaches the user."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole


def opened(value: Any) -> Any:
    """Return a result with every object that holds tensors marked, so that pytree flattens into it."""
    return pytree.tree_map(lambda leaf: Opened(leaf) if _holds_tensors(leaf) else leaf, value)


def opened_leaves(value: Any) -> list[Any]:
    """Return the leaves of a result, also those inside its objects."""
    return pytree.tree_leaves(opened(value))


def is_state(spec: Any) -> Iterator[bool]:
    """Yield for every leaf of a structure whether it lies inside a cache: a state for the next call, not a result.

    A cache is an object of a class called ``Cache`` or derived from one (transformers); a distribution is a result.
    """
    if spec.is_leaf():
        yield False
        return
    children = spec.children() if callable(spec.children) else spec.children
    for child in children:
        for inside in is_state(child):
            yield inside or (spec.type is Opened and spec.context[2])


def _holds_tensors(leaf: Any, depth: int = _DEPTH) -> bool:
    attributes = getattr(leaf, "__dict__", None)
    if not attributes or depth == 0 or isinstance(leaf, (torch.Tensor, nn.Module, type)) or callable(leaf):
        return False
    inner = pytree.tree_leaves(list(attributes.values()))
    return any(isinstance(x, torch.Tensor) or _holds_tensors(x, depth - 1) for x in inner)


Context = tuple[str, tuple[str, ...], bool]


def _flatten(shell: Opened) -> tuple[list[Any], Context]:
    kind = type(shell.whole)
    place = f"{kind.__module__}:{kind.__qualname__}"
    _local[place] = kind
    attributes = vars(shell.whole)
    state = any(base.__name__ == "Cache" for base in kind.__mro__)
    return [opened(v) for v in attributes.values()], (place, tuple(attributes), state)


def _unflatten(values: Any, context: Context) -> Any:
    place, names, _ = context
    kind: Any = _local.get(place) or _loaded(place)
    whole = kind.__new__(kind)
    vars(whole).update(zip(names, values, strict=True))
    return whole


def _loaded(place: str) -> type:
    """Find a class among the imported modules: reading a file must not import anything."""
    module, _, path = place.partition(":")
    kind: Any = sys.modules.get(module)
    for part in path.split("."):
        kind = getattr(kind, part, None)
    if not isinstance(kind, type):
        raise CaptureError(f"The model returns a {path}, which is not in memory; import {module} first.")
    return kind


pytree.register_pytree_node(
    Opened,
    _flatten,
    _unflatten,
    serialized_type_name="prunus.graph.open_outputs.Opened",
    to_dumpable_context=lambda context: [context[0], list(context[1]), context[2]],
    from_dumpable_context=lambda data: (data[0], tuple(data[1]), bool(data[2])),
)
