"""Integers of a program that grow with its inputs, written as expressions over input shapes in a rewritten forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from prunus.graph.constant_origins import unfold
from prunus.graph.ir import TENSOR, Graph, ModuleCall, Node, Ref, refs_in

Literal = tuple[str, str, int | None]
"""The place of a literal: name of the node, name of the argument, position in a list argument."""
_MISSING = object()
_Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Variation:
    """The program at another size of some dims of its inputs; ``name`` describes these dims."""

    name: str
    graph: Graph


@dataclass(frozen=True, slots=True)
class Growth:
    """A program at several sizes of its inputs.

    A forward *follows* a variation if everything in it that differs can be written with the shapes of its arguments.
    Otherwise its sizes stay as captured, and the first thing that cannot be written is the reason.

    Attributes:
        graph: the program as captured.
        others: the same program, op by op, at other sizes.
        static: sentences that name the dims of the inputs that cannot vary, with the reason.
    """

    graph: Graph
    others: tuple[Variation, ...] = ()
    static: tuple[str, ...] = ()
    _known: dict[tuple[int, frozenset[int]], dict[int, str]] = field(default_factory=dict, repr=False, compare=False)
    _dims_of: dict[int, list[_Dim]] = field(default_factory=dict, repr=False, compare=False)

    def opened(self, edited: Graph) -> tuple[Growth, Graph]:
        """Unfold, in both programs, the constants that follow a size of the inputs and lost nothing in the cut.

        The rewritten forward then computes them in every call.
        """
        growing = {node.name for node in self.graph.nodes if node.op == TENSOR and self._follows(node, edited)}
        if not growing:
            return self, edited
        others = tuple(Variation(o.name, unfold(o.graph, growing)) for o in self.others)
        return Growth(unfold(self.graph, growing), others, self.static), unfold(edited, growing)

    def _follows(self, node: Node, edited: Graph) -> bool:
        captured = self.graph.constants.get(node.tensor)
        if captured is None or node.tensor not in edited.tensors or edited.tensors[node.tensor].shape != captured.shape:
            return False
        values = (o.graph.constants.get(node.tensor) for o in self.others)
        return any(value is not None and not _equal_tensors(captured, value) for value in values)

    def text(self, graph: Graph, root: ModuleCall, natives: frozenset[int], literal: Literal, value: int) -> str | None:
        """Return an expression over the shapes of a forward's arguments for a literal that grows, else None.

        Args:
            graph: the edited program.
            root: the call whose forward is written.
            natives: the calls below it that stay calls of their module.
            literal: the place of the literal.
            value: its value in the edited program.
        """
        return self._expression(graph, root, self.sizes(*literal, self.held(graph, root.index, natives)), value)

    def held(self, graph: Graph, root: int, natives: frozenset[int]) -> Mapping[int, str]:
        """Return the variations that a forward cannot follow: index in ``others`` → reason.

        Args:
            graph: the edited program.
            root: the call whose forward is written.
            natives: the calls below it that stay calls of their module.
        """
        known = self._known.get((root, natives))
        if known is None:
            known = self._fixed(graph, root, natives)
            self._known[(root, natives)] = known
        return known

    def reasons(self, graph: Graph, roots: Mapping[int, frozenset[int]]) -> tuple[str, ...]:
        """Return sentences that name the dims of the inputs that some forward cannot follow, with the reason.

        Args:
            graph: the edited program.
            roots: each call whose forward is written → the calls below it that stay calls.
        """
        sentences = dict.fromkeys(self.static)
        for root, natives in roots.items():
            path = graph.calls[root].path or "the top level"
            for k, reason in self.held(graph, root, natives).items():
                sentences[f"{self.others[k].name} is static in {path}: {reason}."] = None
        return tuple(sentences)

    def _fixed(self, graph: Graph, root: int, natives: frozenset[int]) -> dict[int, str]:
        nodes = list(members(graph, root, natives))
        given = {r for r in graph.calls[root].in_leaves if isinstance(r, Ref)}
        given |= {r for i in natives for r in graph.calls[i].out_leaves if isinstance(r, Ref)}
        fixed: dict[int, str] = {}
        for k in range(len(self.others)):
            reason = self._fixed_argument(k, root, natives) or self._fixed_value(k, graph, nodes, given)
            reason = reason or self._fixed_passed(k, graph, natives, given)
            if reason:
                fixed[k] = reason
        before = -1
        while before < len(fixed):  # each variation that is fixed changes the sizes that the others have to fit
            before = len(fixed)
            for node in nodes:
                self._fix_unexplained_(fixed, graph, root, node)
        return fixed

    def _fix_unexplained_(self, fixed: dict[int, str], graph: Graph, root: int, node: Node) -> None:
        """Fix the variations in which a number fits no expression; the last first, because the first is the batch."""
        for key, position, value in _literals(node):
            for k in reversed(self._growing(node.name, key, position, fixed)):
                if self._expression(graph, graph.calls[root], self.sizes(node.name, key, position, fixed), value):
                    break
                fixed[k] = f"{key} of {node.op} is no multiple of a size ({graph.where(node)})"

    def sizes(self, name: str, key: str, position: int | None, fixed: Mapping[int, str]) -> tuple[Any, ...]:
        """Return the values of a literal in ``graph`` and in each of ``others``; for fixed ones, that of ``graph``."""
        first = _literal(self.graph, name, key, position)
        return (
            first,
            *(first if k in fixed else _literal(o.graph, name, key, position) for k, o in enumerate(self.others)),
        )

    def _growing(self, name: str, key: str, position: int | None, fixed: Mapping[int, str]) -> list[int]:
        first, *others = self.sizes(name, key, position, fixed)
        return [k for k, other in enumerate(others) if not _equal(first, other)]

    def _fixed_argument(self, k: int, root: int, natives: frozenset[int]) -> str:
        """Return a reason if a number among the arguments or results of the forward or its children changes."""
        one, two = self.graph.calls, self.others[k].graph.calls
        for index in (root, *sorted(natives)):
            if not _same_numbers(one[index], two[index]):
                return f"{one[index].path or 'the model'} is called with a number that follows it"
        return ""

    def _fixed_passed(self, k: int, graph: Graph, natives: frozenset[int], given: Set[Ref]) -> str:
        """Return a reason if a child is called with a constant that was made for one size."""
        for call in (graph.calls[i] for i in sorted(natives)):
            for leaf in call.in_leaves:
                shape = self._constant_of(k, graph, leaf) if isinstance(leaf, Ref) and leaf not in given else None
                if shape is not None:
                    return f"a constant of shape {shape} was made for it (argument of {call.path})"
        return ""

    def _constant_of(self, k: int, graph: Graph, ref: Ref) -> tuple[int, ...] | None:
        """Return the shape of a constant that a variation changes; None for other values, and for removed ones."""
        node = graph.find(ref.node)
        if node is None or node.op != TENSOR:
            return None
        a, b = (g.constants.get(node.tensor) for g in (self.graph, self.others[k].graph))
        return tuple(a.shape) if a is not None and b is not None and not _equal_tensors(a, b) else None

    def _fixed_value(self, k: int, graph: Graph, nodes: Sequence[Node], given: Set[Ref]) -> str:
        """Return a reason if the forward reads a constant made for one size, or a number that no size explains."""
        for node in nodes:
            for ref in refs_in(node.args):
                shape = None if ref in given else self._constant_of(k, graph, ref)
                if shape is not None:
                    return f"a constant of shape {shape} was made for it ({graph.where(node)})"
            for key, position, value in _literals(node):
                if type(value) is not int and k in self._growing(node.name, key, position, {}):
                    return f"{key} of {node.op} was computed from it ({graph.where(node)})"
        return ""

    def _expression(self, graph: Graph, root: ModuleCall, sizes: tuple[Any, ...], value: int) -> str | None:
        """Return the first dim, or product or quotient of two dims, that is proportional to a literal's sizes."""
        if not all(type(v) is int for v in sizes) or len(set(sizes)) == 1:
            return None
        dims = self._dims(graph, root)
        for a in dims:
            if _proportional(sizes, a.sizes):
                return _scaled(a.text, "", value, a.now)
        for i, a in enumerate(dims):
            for b in dims[i:]:
                if _proportional(sizes, _products(a.sizes, b.sizes)):
                    return _scaled(f"{a.text} * {b.text}", "", value, a.now * b.now)
        for a in dims:
            for b in dims:
                if _proportional(_products(sizes, b.sizes), a.sizes):
                    return _scaled(a.text, b.text, value * b.now, a.now)
        return None

    def _dims(self, graph: Graph, root: ModuleCall) -> list[_Dim]:
        """Return those dims of a forward's arguments that vary."""
        if root.index not in self._dims_of:
            self._dims_of[root.index] = list(self._varying(graph, root))
        return self._dims_of[root.index]

    def _varying(self, graph: Graph, root: ModuleCall) -> Iterator[_Dim]:
        seen: set[Ref] = set()
        alive = {n.name for n in self.graph.nodes} & {n.name for n in graph.nodes}
        for i, leaf in enumerate(root.in_leaves):
            if not isinstance(leaf, Ref) or leaf in seen or leaf.node not in alive:
                continue
            seen.add(leaf)
            shapes = [g.meta(leaf).shape for g in (self.graph, *(o.graph for o in self.others))]
            for d, sizes in enumerate(zip(*shapes, strict=True)):
                now = graph.meta(leaf).shape[d]
                if len(set(sizes)) > 1 and all(sizes) and now:
                    yield _Dim(f"x{i}.shape[{d}]", sizes, now)


@dataclass(frozen=True, slots=True)
class _Dim:
    """A dim as text, its size in each program, and its size after the cut."""

    text: str
    sizes: _Sizes
    now: int


def members(graph: Graph, root: int, natives: frozenset[int]) -> Iterator[Node]:
    """Yield the nodes that the forward of a call contains once it is written out."""
    inside = {root}
    for call in graph.calls:
        if call.parent in inside and call.index not in natives:
            inside.add(call.index)
    yield from (n for n in graph.nodes if n.call in inside)


def _literals(node: Node) -> Iterator[tuple[str, int | None, Any]]:
    for key, value in node.args.items():
        if isinstance(value, (list, tuple)):
            yield from ((key, i, v) for i, v in enumerate(value) if not isinstance(v, Ref))
        elif not isinstance(value, Ref):
            yield key, None, value


def _literal(graph: Graph, name: str, key: str, position: int | None) -> Any:
    args = graph.node(name).args
    value = args.get(key, args.get("size", _MISSING) if key == "shape" else _MISSING)  # a view becomes a reshape
    if position is None:
        return value
    return value[position] if isinstance(value, (list, tuple)) and position < len(value) else _MISSING


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b)) or (a != a and b != b)


def _equal_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _same_numbers(a: ModuleCall, b: ModuleCall) -> bool:
    pairs = [*zip(a.in_leaves, b.in_leaves, strict=False), *zip(a.out_leaves, b.out_leaves, strict=False)]
    return all(_equal(x, y) for x, y in pairs if isinstance(x, (int, float)))


def _products(a: _Sizes, b: _Sizes) -> _Sizes:
    return tuple(x * y for x, y in zip(a, b, strict=True))


def _proportional(sizes: _Sizes, to: _Sizes) -> bool:
    return all(v * to[0] == sizes[0] * t for v, t in zip(sizes, to, strict=True))


def _scaled(text: str, divisor: str, value: int, size: int) -> str:
    """Write text / divisor · value / size as a Python expression over integers."""
    shared = math.gcd(value, size)
    times, over = value // shared, size // shared
    text = text if times == 1 else f"{text} * {times}"
    below = " * ".join([*([divisor] if divisor else []), *([str(over)] if over != 1 else [])])
    return f"{text} // ({below})" if " " in below else f"{text} // {below}" if below else text
