"""The records of a graph: nodes, values, module calls. All are named by strings; none holds a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

INPUT = "input"
TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Ref:
    """A value: result number ``index`` of the node called ``node``."""

    node: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """Shape and dtype of a value."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the program: an input, a named tensor, or a call of an ATen op.

    ``args`` holds every schema argument by name, defaults included; values are literals, `Ref`s, or lists of them.
    """

    name: str
    op: str
    args: Mapping[str, Any]
    outputs: tuple[TensorMeta | None, ...]
    multi: bool = False
    tensor: str = ""
    call: int = 0
    order: int = 0
    source: str = ""

    def get(self, name: str, default: Any = None) -> Any:
        """Return one schema argument, or ``default`` where the op has none of that name."""
        return self.args.get(name, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        meta = self.outputs[0]
        return meta.shape if meta is not None else ()


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a submodule: its place, and the leaves of its arguments and results (`Ref`s or literals)."""

    index: int
    path: str
    kind: str
    parent: int
    start: int
    stop: int
    in_leaves: tuple[Any, ...]
    in_spec: Any
    out_leaves: tuple[Any, ...]
    out_spec: Any


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A named tensor of the model: parameter, buffer, or a constant found while capturing."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured program: nodes in execution order, its named tensors, its module calls.

    ``recipes`` are the nodes from which folded constants were computed, in execution order.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    in_spec: Any
    outputs: tuple[Any, ...]
    out_spec: Any
    tensors: Mapping[str, TensorInfo]
    aliases: Mapping[str, str]
    constants: Mapping[str, torch.Tensor]
    calls: tuple[ModuleCall, ...]
    modules: Mapping[str, str]
    how: str = "record"
    notes: tuple[str, ...] = ()
    recipes: tuple[Node, ...] = ()
    _by_name: dict[str, Node] = field(default_factory=dict, repr=False, compare=False)

    def node(self, name: str) -> Node:
        """Return the node called ``name``."""
        if not self._by_name:
            self._by_name.update({n.name: n for n in self.nodes})
        return self._by_name[name]

    def find(self, name: str) -> Node | None:
        """Return the node called ``name``, or None where there is none."""
        try:
            return self.node(name)
        except KeyError:
            return None

    def meta(self, ref: Ref) -> TensorMeta:
        """Return the shape and dtype of a value."""
        meta = self.node(ref.node).outputs[ref.index]
        if meta is None:
            raise KeyError(f"{ref} is not a tensor")
        return meta

    def module_of(self, node: Node) -> str:
        """Return the path of the module whose forward made ``node``; the root is the empty string."""
        return self.calls[node.call].path if self.calls else ""

    def where(self, node: Node) -> str:
        """Describe where a node comes from, for messages: module path and source line."""
        module = self.module_of(node) or "(top level)"
        return f"{module} at {node.source}" if node.source else module


# Most arguments are of these types: testing for the exact type first saves the recursion.
_LEAVES = frozenset((int, float, bool, str, type(None)))


def refs_in(value: Any) -> Iterator[Ref]:
    """Yield every `Ref` inside an argument, in order."""
    kind = type(value)
    if kind is Ref:
        yield value
    elif kind in _LEAVES:
        return
    elif isinstance(value, (list, tuple)):
        for item in value:
            if type(item) not in _LEAVES:
                yield from refs_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            if type(item) not in _LEAVES:
                yield from refs_in(item)


def map_refs(value: Any, function: Any) -> Any:
    """Return ``value`` with every `Ref` replaced by ``function(ref)``; containers are rebuilt."""
    if isinstance(value, Ref):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)([map_refs(item, function) for item in value])
    return value


def is_mutating(op: str) -> bool:
    """Tell whether an op writes into one of its arguments: in-place ops and out-variants."""
    name = op.split(".")[1] if op.count(".") else op
    return name.endswith("_") and not name.endswith("__")
