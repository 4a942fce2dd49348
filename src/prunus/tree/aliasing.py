"""A test of in-place ops: it decides whether one operand may replace an addition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunus.graph.interpreter import resolve
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, is_mutating, refs_in

# Their schemas promise a fresh tensor, but in eval mode they return their argument.
_SAME = ("dropout", "feature_dropout", "alpha_dropout", "type_as")


@dataclass(frozen=True, slots=True)
class Storage:
    """The nodes that may share memory, with the positions of their reads and writes.

    ``parent`` maps a view or an in-place result to the node from which it was made; ``reads`` lists, by the node at the
    start of such a chain, (position, node read); ``writes`` does the same for in-place ops.
    """

    graph: Graph
    parent: Mapping[str, str]
    position: Mapping[str, int]
    reads: Mapping[str, tuple[tuple[int, str], ...]]
    writes: Mapping[str, tuple[tuple[int, str], ...]]

    @staticmethod
    def of(graph: Graph) -> Storage:
        """Follow views and in-place ops through a graph."""
        parent = parents(graph)
        reads: dict[str, list[tuple[int, str]]] = {}
        writes: dict[str, list[tuple[int, str]]] = {}
        for position, node in enumerate(graph.nodes):
            for ref in refs_in(node.args):
                reads.setdefault(_root(parent, ref.node), []).append((position, ref.node))
            if node.name in parent and is_mutating(node.op):
                writes.setdefault(_root(parent, node.name), []).append((position, node.name))
        for ref in refs_in(list(graph.outputs)):
            reads.setdefault(_root(parent, ref.node), []).append((len(graph.nodes), ref.node))
        return Storage(
            graph,
            parent,
            {node.name: i for i, node in enumerate(graph.nodes)},
            {name: tuple(readings) for name, readings in reads.items()},
            {name: tuple(writings) for name, writings in writes.items()},
        )

    def can_bypass(self, join: str, stays: Ref, goes: Ref) -> bool:
        """Tell whether ``join`` may become a second name of ``stays``.

        It may not where a later in-place op on the sum would overwrite ``stays`` while other nodes still read it, nor
        where the addition itself writes into ``goes`` and another node reads that memory by another name.
        """
        at = self.position[join]
        in_place = join in self.parent
        if in_place and self.parent[join] == goes.node and self._read_beside(join, goes.node, at):
            return False
        writes = [p for p, name in self.writes.get(_root(self.parent, join), ()) if p > at and self._is_of(name, join)]
        if not writes or (in_place and self.parent[join] == stays.node):
            return True
        start = self.graph.node(_root(self.parent, stays.node))
        return start.op not in (INPUT, TENSOR) and not self._read_beside(join, stays.node, min(writes))

    def _read_beside(self, join: str, name: str, after: int) -> bool:
        """Tell whether the memory of ``name`` is read after a position by a name that does not derive from ``join``."""
        readings = self.reads.get(_root(self.parent, name), ())
        return any(position > after and not self._is_of(read, join) for position, read in readings)

    def _is_of(self, name: str, ancestor: str) -> bool:
        while name != ancestor and name in self.parent:
            name = self.parent[name]
        return name == ancestor


def parents(graph: Graph) -> dict[str, str]:
    """Map each view or in-place result to the node whose memory it shares."""
    return {node.name: made for node in graph.nodes if (made := _made_from(node))}


def _root(parent: Mapping[str, str], name: str) -> str:
    while name in parent:
        name = parent[name]
    return name


def _made_from(node: Node) -> str:
    if node.op in (INPUT, TENSOR):
        return ""
    first = next(refs_in(node.args), None)
    if first is None:
        return ""
    schema = resolve(node.op)._schema
    shares = any(r.alias_info is not None for r in schema.returns) or schema.name.partition("::")[2] in _SAME
    return first.node if shares else ""
