"""Align two programs of one model, call by call: match their nodes, and find the readers of a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref


@dataclass(frozen=True, slots=True)
class Site:
    """A place that names a value.

    Attributes:
        kind: ``node``, ``in`` or ``out`` (of a module call), or ``output`` (of the program).
        of: name of the node, or number of the call.
        key: name of the argument; empty for leaves.
        position: index in a list argument, or index of the leaf; -1 for a plain argument.
    """

    kind: str
    of: str | int = 0
    key: str = ""
    position: int = -1


@dataclass(frozen=True, slots=True)
class Alignment:
    """Two programs of one model.

    Attributes:
        one, two: the programs.
        pairs: nodes that are the same in both, by module call and order.
        names: node of ``two`` → node of ``one``.
        calls: module call of ``two`` → that of ``one``.
    """

    one: Graph
    two: Graph
    pairs: tuple[tuple[Node, Node], ...]
    names: dict[str, str] = field(default_factory=dict)
    calls: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, one: Graph, two: Graph) -> Alignment:
        """Match the n-th calls of each module, and the ops in them in their order."""
        known = {number: call for call, number in _numbered(one).items()}
        calls = {call: known[number] for call, number in _numbered(two).items() if number in known}
        left, right = _by_call(one), _by_call(two)
        pairs = tuple(pair for b, a in calls.items() for pair in _matched(left.get(a, ()), right.get(b, ())))
        names = {b.name: a.name for a, b in pairs}
        names.update(zip(two.inputs, one.inputs, strict=False))
        tensors = {n.tensor: n.name for n in one.nodes if n.op == TENSOR}
        names.update({n.name: tensors[n.tensor] for n in two.nodes if n.op == TENSOR and n.tensor in tensors})
        return cls(one, two, pairs, names, calls)

    def ref(self, ref: Ref) -> Ref | None:
        """Return the value of ``one`` for one of ``two``."""
        name = self.names.get(ref.node)
        return None if name is None else Ref(name, ref.index)

    def call(self, index: int) -> int:
        """Return the call of ``one`` that matches a call of ``two`` or the nearest caller of it."""
        while index not in self.calls and index > 0:
            index = self.two.calls[index].parent
        return self.calls.get(index, 0)

    def sites(self, read: Ref, instead: Ref) -> Iterator[Site]:
        """Yield the places at which ``two`` reads the value ``read`` and ``one`` reads ``instead``."""
        for a, b in self.pairs:
            for key, value in b.args.items():
                for position, item in _placed(value):
                    if item == read and _at(a.args.get(key), position) == instead:
                        yield Site("node", a.name, key, position)
        for two, one in self.calls.items():
            a_call, b_call = self.one.calls[one], self.two.calls[two]
            leaves = ("in", a_call.in_leaves, b_call.in_leaves), ("out", a_call.out_leaves, b_call.out_leaves)
            for kind, old, new in leaves:
                yield from (Site(kind, one, position=i) for i in _same_places(old, new, instead, read))
        for i in _same_places(self.one.outputs, self.two.outputs, instead, read):
            yield Site("output", position=i)


def put(graph: Graph, sites: Collection[Site], old: Ref, new: Ref) -> Graph:
    """Return a program in which the given places name ``new``; a place that does not name ``old`` is left unchanged."""
    by_node: dict[str | int, list[Site]] = {}
    for site in sites:
        if site.kind == "node":
            by_node.setdefault(site.of, []).append(site)
    nodes = tuple(_put_in_node(n, by_node[n.name], old, new) if n.name in by_node else n for n in graph.nodes)
    places = {(s.kind, s.of, s.position) for s in sites}

    def leaves(kind: str, of: int, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(new if v == old and (kind, of, i) in places else v for i, v in enumerate(values))

    touched = {s.of for s in sites if s.kind in ("in", "out")}
    calls = tuple(
        dataclasses.replace(
            c, in_leaves=leaves("in", c.index, c.in_leaves), out_leaves=leaves("out", c.index, c.out_leaves)
        )
        if c.index in touched
        else c
        for c in graph.calls
    )
    outputs = leaves("output", 0, graph.outputs)
    return dataclasses.replace(graph, nodes=nodes, calls=calls, outputs=outputs, _by_name={})


def _put_in_node(node: Node, sites: Collection[Site], old: Ref, new: Ref) -> Node:
    args = dict(node.args)
    for site in sites:
        if _at(args.get(site.key), site.position) != old:
            continue
        if site.position < 0:
            args[site.key] = new
        else:
            args[site.key] = [new if i == site.position else v for i, v in enumerate(args[site.key])]
    return dataclasses.replace(node, args=args)


def _numbered(graph: Graph) -> dict[int, tuple[str, int]]:
    """Return call → (module path, number of earlier calls of that module)."""
    counts: dict[str, int] = {}
    numbered = {}
    for call in graph.calls:
        counts[call.path] = counts.get(call.path, -1) + 1
        numbered[call.index] = (call.path, counts[call.path])
    return numbered


def _by_call(graph: Graph) -> dict[int, list[Node]]:
    nodes: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.op not in (INPUT, TENSOR):
            nodes.setdefault(node.call, []).append(node)
    return nodes


def _matched(a: Sequence[Node], b: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
    left, right = [n.op for n in a], [n.op for n in b]
    if left == right:
        yield from zip(a, b, strict=True)
        return
    for i, j, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        yield from zip(a[i : i + size], b[j : j + size], strict=True)


def _placed(value: Any) -> Iterator[tuple[int, Any]]:
    if isinstance(value, (list, tuple)):
        yield from enumerate(value)
    else:
        yield -1, value


def _at(value: Any, position: int) -> Any:
    if position < 0:
        return value
    return value[position] if isinstance(value, (list, tuple)) and position < len(value) else None


def _same_places(old: Sequence[Any], new: Sequence[Any], instead: Ref, read: Ref) -> list[int]:
    pairs = zip(old, new, strict=False) if len(old) == len(new) else ()
    return [i for i, (a, b) in enumerate(pairs) if isinstance(b, Ref) and b == read and a == instead]
