"""The memory of a forward pass as a function of the widths: parameters plus the peak of the activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prunus.cost.price import product_of, sizes_under
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import resolve
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, refs_in
from prunus.graph.layout import Expr

Kept = Mapping[str, int | np.ndarray]


@dataclass(frozen=True, slots=True)
class _Life:
    """A value: its dims, bytes an element, and the steps at which it is made and read last."""

    dims: tuple[Expr, ...]
    item: int
    born: int
    dies: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Bytes of one forward pass without gradients.

    bytes(kept) = Σ tensors + max over steps of the values that are alive. A value lives from the op that makes it to
    its last reader; views and in-place results share the storage of their argument. Scratch memory inside ops is not
    counted.
    """

    coupling: Coupling
    steps: int
    tensors: tuple[_Life, ...]
    values: tuple[_Life, ...]

    def price(self, kept: Kept | None = None) -> int:
        """Return the bytes where each axis ``a`` keeps ``kept[a]`` units (a count or a bool mask)."""
        size = sizes_under(self.coupling, kept)

        def amount(life: _Life) -> int:
            return life.item * int(product_of(life.dims, size))

        change = np.zeros(self.steps + 2, np.int64)
        for life in self.values:
            spent = amount(life)
            change[life.born] += spent
            change[life.dies + 1] -= spent
        return sum(amount(life) for life in self.tensors) + int(np.cumsum(change).max(initial=0))


def memory_model(coupling: Coupling) -> MemoryModel:
    """Build the memory model of a program from the life of each of its values."""
    graph = coupling.graph
    storage = _storage(graph)
    step = {node.name: i for i, node in enumerate(graph.nodes)}
    last = {ref: step[ref.node] for ref in storage.values()}
    for node in graph.nodes:
        for ref in refs_in(node.args):
            root = storage.get(ref, ref)
            last[root] = max(last.get(root, 0), step[node.name])
    for ref in refs_in(list(graph.outputs)):
        last[storage.get(ref, ref)] = len(graph.nodes)
    values, tensors = [], []
    for ref in dict.fromkeys(storage.values()):
        node = graph.node(ref.node)
        meta = graph.meta(ref)
        if node.op != TENSOR:
            values.append(_Life(coupling.values[ref], meta.dtype.itemsize, step[ref.node], last[ref]))
    for name, info in graph.tensors.items():
        tensors.append(_Life(coupling.tensors[name], info.dtype.itemsize, 0, 0))
    return MemoryModel(coupling, len(graph.nodes), tuple(tensors), tuple(values))


def _storage(graph: Graph) -> dict[Ref, Ref]:
    """Map every value to the value whose storage it uses: itself, or the value of which it is a view."""
    storage: dict[Ref, Ref] = {}
    for node in graph.nodes:
        source = _viewed(node)
        for index, meta in enumerate(node.outputs):
            if meta is not None:
                value = Ref(node.name, index)
                storage[value] = value if source is None else storage.get(source, source)
    return storage


def _viewed(node: Node) -> Ref | None:
    """Return the argument whose storage the op's results share; None where the results have their own."""
    if node.op in (INPUT, TENSOR):
        return None
    schema = resolve(node.op)._schema
    if not any(r.alias_info is not None for r in schema.returns):
        return None
    shared = next((a.name for a in schema.arguments if a.alias_info is not None), None)
    return next(refs_in(node.args.get(shared)), None) if shared is not None else None
