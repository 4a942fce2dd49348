"""The numbers of a program after a cut, as functions of the kept counts of the axes.

The rules of `rewrite_rules` compute them from counts; here they are given formulas instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prunus.graph.coupling import Coupling
from prunus.graph.grouped_mm import row_items
from prunus.graph.ir import INPUT, TENSOR, Node, Ref, refs_in
from prunus.graph.kept_forward import Multiple
from prunus.graph.layout import Expr, Prod, Sum, atoms_of
from prunus.graph.rules.context import base_name, positive
from prunus.graph.size_functions import Count, counted
from prunus.surgery.rewriting.rewrite_rules import REWRITES, Sizes

_SPLITS = frozenset(
    {
        "split",
        "split_with_sizes",
        "chunk",
        "tensor_split",
        "unsafe_split",
        "unsafe_chunk",
        "unsafe_split_with_sizes",
        "hsplit",
        "vsplit",
    }
)
# What these hold has a meaning of its own and is mended with the module (`surgery.attributes`).
_MENDED = frozenset({"embedding"})


@dataclass(frozen=True, slots=True)
class Demand:
    """A number of a node has to be ``count``; without a key, ``count`` has to equal ``other``.

    Attributes:
        node: name of the node.
        key, position: which number.
        count: what it has to be.
        other: the other side of an equation that holds without any number.
        reason: why, for messages.
    """

    node: str
    count: Count
    key: str = ""
    position: int | None = None
    other: Count | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A node that is wrong with any number when one of these axes (atoms) shrinks."""

    node: str
    atoms: frozenset[int]
    reason: str


class FormulaError(Exception):
    """A number has no formula in kept counts."""


@dataclass(frozen=True, slots=True)
class Formulas(Sizes):
    """The sizes of everything as formulas; see `Sizes`, whose place it takes in a rule."""

    def count(self, expr: Expr) -> Count:
        """Return how many positions of a dim stay."""
        return counted(expr, self.coupling.axis_of.__contains__, self.coupling.sizes)

    def new(self, ref: Ref) -> Any:
        """Return the shape after."""
        return tuple(self.count(e) for e in self.coupling.values[ref])

    def aux(self, node: Node, key: str) -> Any:
        """Return the new values of a literal that counts an expression."""
        exprs = self.coupling.aux.get((node.name, key))
        return None if exprs is None else [self.count(e) for e in exprs]

    def prefix(self, expr: Expr, stop: int) -> Any:
        """Return how many of the first ``stop`` positions of a dim stay."""
        size = self.coupling.size(expr)
        if stop <= 0 or stop >= size:
            return self.count(expr) if stop > 0 else Count.of(0)
        if isinstance(expr, Sum):
            total, left = Count.of(0), stop
            for term in expr.terms:
                total = total + self.prefix(term, min(left, self.coupling.size(term)))
                left -= min(left, self.coupling.size(term))
            return total
        if isinstance(expr, Prod):
            rest = Prod(expr.factors[1:])
            whole, part = divmod(stop, self.coupling.size(rest))
            if part == 0:
                return self.prefix(expr.factors[0], whole) * self.count(rest)
        if any(a in self.coupling.axis_of for a in atoms_of(expr)):
            raise FormulaError("a border inside an axis")
        return Count.of(stop)

    def position(self, expr: Expr, old: int, gone: int) -> int:
        """Return the number of a position; in a dim that shrinks it has no formula."""
        if any(a in self.coupling.axis_of for a in atoms_of(expr)):
            raise FormulaError("a position of an axis")
        return old


def demands(coupling: Coupling, exempt: frozenset[int] = frozenset()) -> Iterator[Demand | Forbidden | Multiple]:
    """Yield the demands of a program on its numbers, and the axes that have to stay whole.

    Args:
        coupling: the analysis of the program.
        exempt: calls whose numbers follow by themselves.
    """
    formulas, graph = Formulas(coupling, {}), coupling.graph
    for node in graph.nodes:
        if node.call in exempt:
            continue
        if node.op == TENSOR:
            yield from _of_constant(formulas, node)
        elif node.op != INPUT and base_name(node.op) not in _MENDED:
            try:
                yield from _of_node(formulas, node)
            except (FormulaError, TypeError, AttributeError):
                yield Forbidden(node.name, _atoms(coupling, node), f"{base_name(node.op)} counts single units")
    for node in graph.recipes:
        if node.op not in (INPUT, TENSOR):
            sizes = _expanded(formulas, node)
            yield from _unchanged(node, {**node.args, **({"size": sizes} if sizes else {})})


def _expanded(formulas: Formulas, node: Node) -> list[Any] | None:
    """Return the new sizes of a table of the code that is stretched along dims that are cut; None for other nodes."""
    known = formulas.coupling.graph.find(node.name)
    if known is None or known.op != TENSOR or base_name(node.op) != "expand":
        return None
    dims = formulas.coupling.tensors[known.tensor]
    return [old if old == -1 else formulas.count(e) for old, e in zip(node.args["size"], dims, strict=True)]


def _stretched(coupling: Coupling, node: Node) -> set[int]:
    """Return the dims along which a table is one value, for its last step stretched it."""
    made = next((n for n in coupling.graph.recipes if n.name == node.name), None)
    if made is None or base_name(made.op) != "expand":
        return set()
    value = coupling.graph.constants[node.tensor]
    return {d for d in range(value.dim()) if bool((value == value.narrow(d, 0, 1)).all())}


def _of_constant(formulas: Formulas, node: Node) -> Iterator[Forbidden]:
    coupling = formulas.coupling
    if coupling.graph.tensors[node.tensor].kind != "constant":
        return
    free = _stretched(coupling, node)
    atoms = frozenset(
        a
        for d, e in enumerate(coupling.tensors[node.tensor])
        if d not in free
        for a in atoms_of(e)
        if a in coupling.axis_of
    )
    ids = coupling.ids.get(node.tensor)
    if ids is not None:
        atoms |= {a for a in atoms_of(ids) if a in coupling.axis_of}
    if atoms:
        yield Forbidden(node.name, atoms, "a table is made for it in the code")


def _of_node(formulas: Formulas, node: Node) -> Iterator[Demand | Forbidden | Multiple]:
    name = base_name(node.op)
    if name in _SPLITS:
        yield from _of_split(formulas, node)
        return
    if name == "scaled_dot_product_attention":
        width = formulas.new(node.args["query"])[-1]
        if node.get("scale") is None and width.atoms():
            yield Forbidden(node.name, width.atoms(), "the scale of attention is 1/√ of it")
        return
    if name == "_grouped_mm":
        inner = formulas.new(node.args["mat2"])[1:]
        step = row_items(formulas.coupling.graph.meta(node.args["mat2"]).dtype)
        for n in inner:
            yield Multiple(n, step, node.name, "torch's grouped product takes rows of whole 16 bytes")
        return
    member = REWRITES.find(name) if node.op.startswith("aten.") else None
    found = member(formulas, node) if member is not None else None
    args = dict(node.args) if found is None else found[1]
    if "size" in node.args and "size" not in args:
        args["size"] = args["shape"]  # a view becomes a reshape
    yield from _unchanged(node, args)


def _unchanged(node: Node, args: Any) -> Iterator[Demand]:
    """Demand of every whole number that it is what ``args`` say."""
    for key, old in node.args.items():
        new = args.get(key, old)
        if isinstance(old, (list, tuple)):
            pairs = list(zip(old, new, strict=False)) if isinstance(new, (list, tuple)) else []
            for i, (o, n) in enumerate(pairs):
                if _is_whole(o) and o != -1:
                    yield Demand(node.name, Count.of(n), key, i)
        elif isinstance(new, (int, Count)) and not isinstance(new, bool) and (_is_whole(old) and old != -1):
            yield Demand(node.name, Count.of(new), key)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _of_split(formulas: Formulas, node: Node) -> Iterator[Demand]:
    """Demand of the pieces what the op makes of one number: they differ by as many units as before.

    ``chunk`` and ``split`` by one size make equal pieces and a last one that may be smaller, ``tensor_split`` makes the
    first ones larger by one; so they do again when every piece loses as many units. A split by sizes has a number for
    each piece, one at borders a number for each border.
    """
    dim = positive(node.get("dim", 0), len(formulas.old(node.args["self"])))
    refs = [Ref(node.name, i) for i in range(len(node.outputs))]
    old, new = [formulas.old(r)[dim] for r in refs], [formulas.new(r)[dim] for r in refs]
    if "split_sizes" in node.args or isinstance(node.get("split_size"), (list, tuple)):
        key = "split_sizes" if "split_sizes" in node.args else "split_size"
        yield from (Demand(node.name, n, key, i) for i, n in enumerate(new))
        return
    if not any(n.atoms() for n in new):
        return
    if isinstance(node.get("indices"), (list, tuple)):
        borders = itertools.accumulate(new, initial=Count.of(0))
        yield from (
            Demand(node.name, n, "indices", i) for i, n in zip(range(len(new) - 1), list(borders)[1:], strict=False)
        )
        return
    for before, n in zip(old[1:], new[1:], strict=True):
        reason = "its pieces are equal" if before == old[0] else f"its pieces differ by {abs(old[0] - before)}"
        yield Demand(node.name, n + (old[0] - before), other=new[0], reason=reason)
    if "split_size" in node.args:
        yield Demand(node.name, new[0], "split_size")


def _atoms(coupling: Coupling, node: Node) -> frozenset[int]:
    refs = [*refs_in(node.args), *(Ref(node.name, i) for i in range(len(node.outputs)))]
    return frozenset(a for r in refs for e in coupling.values.get(r, ()) for a in atoms_of(e) if a in coupling.axis_of)
