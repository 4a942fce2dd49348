"""Removal of nodes after edges are cut: a node whose readers are all removed is removed, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunus.graph.coupling import Coupling, Keep, count
from prunus.graph.ir import INPUT, TENSOR, Graph, Ref, refs_in
from prunus.graph.layout import Expr
from prunus.graph.rules.context import base_name
from prunus.plans import Drop
from prunus.tree.aliasing import parents

CONCAT_OPS = ("cat", "concat", "concatenate")


@dataclass(frozen=True, slots=True)
class Edge:
    """One reading of a value: ``user`` reads ``source`` as its ``place``-th `Ref`."""

    source: str
    user: str
    place: int


@dataclass(frozen=True, slots=True)
class Readers:
    """The readers of every node and of every memory.

    Attributes:
        graph: the program.
        reads: number of readings of each node; an unread node counts as read once.
        places: number of nodes in which each tensor appears.
        roots: the node in whose memory each node lies.
        outside: number of readings of a memory by nodes outside it, by its root.
        writers: in-place writes whose result nothing reads, by root: they are removed when no node outside reads the
            memory.
    """

    graph: Graph
    reads: Mapping[str, int]
    places: Mapping[str, int]
    roots: Mapping[str, str]
    outside: Mapping[str, int]
    writers: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(graph: Graph) -> Readers:
        """Count the readings of a graph; outputs of the network are readings."""
        parent, roots = parents(graph), dict[str, str]()
        for node in graph.nodes:
            roots[node.name] = roots[parent[node.name]] if node.name in parent else node.name
        reads, outside = dict.fromkeys(roots, 0), dict.fromkeys(roots, 0)
        for user, values in [*((roots[n.name], n.args) for n in graph.nodes), ("", list(graph.outputs))]:
            for ref in refs_in(values):
                reads[ref.node] += 1
                outside[roots[ref.node]] += user != roots[ref.node]
        writers: dict[str, tuple[str, ...]] = {}
        places: dict[str, int] = {}
        for node in graph.nodes:
            if reads[node.name] == 0 and node.name in parent:
                writers[roots[node.name]] = (*writers.get(roots[node.name], ()), node.name)
            if node.op == TENSOR:
                places[node.tensor] = places.get(node.tensor, 0) + 1
        return Readers(graph, {name: n or 1 for name, n in reads.items()}, places, roots, outside, writers)

    def gone(self, edges: Iterable[Edge]) -> frozenset[str]:
        """Return the nodes that no output needs once ``edges`` are cut; inputs stay.

        The cost is proportional to the removed nodes, not to the graph.
        """
        left: dict[str, int] = {}
        outside: dict[str, int] = {}
        cut: set[Edge] = set()
        dead: set[str] = set()
        todo = list(edges)
        while todo:
            edge = todo.pop()
            if edge in cut:
                continue
            cut.add(edge)
            root = self.roots[edge.source]
            if edge.user and self.roots[edge.user] != root:
                outside[root] = outside.get(root, self.outside[root]) - 1
                if outside[root] == 0:
                    todo.extend(Edge(writer, "", 0) for writer in self.writers.get(root, ()))
            left[edge.source] = left.get(edge.source, self.reads[edge.source]) - 1
            node = self.graph.node(edge.source)
            if left[edge.source] == 0 and node.op != INPUT:
                dead.add(edge.source)
                todo.extend(Edge(ref.node, node.name, i) for i, ref in enumerate(refs_in(node.args)))
        return frozenset(dead)

    def tensors(self, dead: Iterable[str]) -> tuple[str, ...]:
        """Return the tensors that only these nodes hold, in the order of the graph."""
        places: dict[str, int] = {}
        for name in dead:
            node = self.graph.node(name)
            if node.op == TENSOR:
                places[node.tensor] = places.get(node.tensor, 0) + 1
        whole = {tensor for tensor, n in places.items() if n == self.places[tensor]}
        return tuple(tensor for tensor in self.graph.tensors if tensor in whole)


def operand_edges(graph: Graph, join: str) -> tuple[Edge, ...]:
    """Return the edges into a join, in the order of its operands."""
    return tuple(Edge(ref.node, join, i) for i, ref in enumerate(refs_in(graph.node(join).args)))


def is_empty(expr: Expr, emptied: frozenset[int]) -> bool:
    """Tell whether a dim has no position left where these atoms have none."""
    return count(expr, lambda atom: 0 if atom in emptied else 1) == 0


def emptied_atoms(coupling: Coupling, keep: Keep) -> frozenset[int]:
    """Return the atoms of the axes that keep no unit."""
    return frozenset(coupling.axis(name).atom for name, mask in keep.items() if not mask.any())


def cut_edges(coupling: Coupling, keep: Keep, drops: Iterable[Drop]) -> list[Edge]:
    """Return the edges that a plan cuts: bypassed operands, and operands of concatenations that lost all positions."""
    graph, emptied = coupling.graph, emptied_atoms(coupling, keep)
    edges = [operand_edges(graph, drop.join)[drop.operand] for drop in drops]
    if emptied:
        for node in graph.nodes:
            if base_name(node.op) in CONCAT_OPS:
                edges += [
                    Edge(ref.node, node.name, i)
                    for i, ref in enumerate(node.args["tensors"])
                    if value_is_empty(coupling, ref, emptied)
                ]
    return edges


def value_is_empty(coupling: Coupling, ref: Ref, emptied: frozenset[int]) -> bool:
    """Tell whether some dim of a value has no position left where these atoms have none."""
    return any(is_empty(expr, emptied) for expr in coupling.values.get(ref, ()))
