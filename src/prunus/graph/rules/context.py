"""The context of a rule: the dims of values so far, and the operations of the dim algebra."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunus.foundation.registry import Registry
from prunus.graph.index_dims import Ids
from prunus.graph.ir import Graph, Node, Ref, refs_in
from prunus.graph.layout import UNIT, ConflictError, Expr, Frozen, Layout
from prunus.graph.routing import Routes

Dims = tuple[Expr, ...]


class Flow:
    """The state of one forward pass of coupling over a graph.

    ``ids`` follows values that are positions of a dim; ``routes`` holds the dims from which a router chooses, where
    experts are removable.
    """

    def __init__(self, graph: Graph, *, experts: bool = False) -> None:
        self.graph = graph
        self.layout = Layout()
        self.ids = Ids(self.layout)
        self.routes = Routes(self.layout, experts)
        self.values: dict[Ref, Dims] = {}
        self.aux: dict[tuple[str, str], tuple[Expr, ...]] = {}
        self.used: set[Ref] = set()
        self._readers: dict[str, list[Node]] = {}

    def readers(self, name: str) -> list[Node]:
        """Return the nodes that read any result of a node."""
        if not self._readers:
            for node in self.graph.nodes:
                for made in {r.node for r in refs_in(node.args)}:
                    self._readers.setdefault(made, []).append(node)
        return self._readers.get(name, [])

    def dims(self, value: Ref) -> list[Expr]:
        """Return the dims of a value, normalised."""
        norm = self.layout.norm
        return [norm(e) for e in self.values[value]]

    def maybe(self, value: Ref | None) -> list[Expr]:
        """Return the dims of an optional value; none for None."""
        return [] if value is None else self.dims(value)

    def shape(self, value: Ref) -> tuple[int, ...]:
        """Return the concrete shape of a value."""
        return self.graph.meta(value).shape

    def size(self, expr: Expr) -> int:
        """Return the number of positions of an expression."""
        return self.layout.size(expr)

    def fresh(self, size: int, frozen: Frozen | str | None = None) -> Expr:
        """Return a fresh atom, frozen where a reason is given."""
        return self.layout.atom(size, frozen)

    def freeze(self, expr: Expr, reason: Frozen | str) -> None:
        """Freeze an expression."""
        self.layout.freeze(expr, reason)

    def unify(self, left: Expr, right: Expr) -> None:
        """Make two expressions the same; see `Layout.unify`."""
        self.layout.unify(left, right)

    def unify_all(self, exprs: Sequence[Expr]) -> None:
        """Make every expression of a sequence the same."""
        for other in exprs[1:]:
            self.unify(exprs[0], other)

    def factor(self, expr: Expr, size: int) -> tuple[Expr, Expr]:
        """Write ``expr`` as rest × trail."""
        return self.layout.factor(expr, size)

    def norm(self, expr: Expr) -> Expr:
        """Substitute refinements."""
        return self.layout.norm(expr)

    def cuts(self, expr: Expr, sizes: Sequence[int]) -> list[Expr]:
        """Write ``expr`` as a sum with terms of the given sizes."""
        sizes = list(sizes)
        if self.layout.is_frozen(expr):
            reason = self.layout.reason(expr)
            return [self.fresh(s, reason) for s in sizes]
        pieces: list[Expr] = []
        rest = expr
        for i, size in enumerate(sizes):
            if size == 0:
                pieces.append(self.fresh(0, "empty"))
            elif i == len(sizes) - 1 or size == self.size(rest):
                pieces.append(rest)
            else:
                first, rest = self.layout.split(rest, size)
                pieces.append(first)
        return [self.norm(p) for p in pieces]

    def broadcast(self, values: Sequence[Sequence[Expr]]) -> Dims:
        """Right-align and unify all dims that are not of size one."""
        rank = max((len(v) for v in values), default=0)
        out: list[Expr] = []
        for back in range(rank, 0, -1):
            present = [v[-back] for v in values if len(v) >= back]
            real = [e for e in present if self.size(e) != 1]
            if not real:
                out.append(UNIT)
                continue
            self.unify_all(real)
            out.append(real[0])
        return tuple(self.norm(e) for e in out)

    def set_aux(self, node: Node, key: str, *exprs: Expr) -> None:
        """Store the expression that a literal argument counts."""
        self.aux[(node.name, key)] = exprs

    def frozen_like(self, node: Node, reason: str) -> list[Dims | None]:
        """Return fresh frozen dims for every result of a node."""
        return [None if meta is None else tuple(self.fresh(s, reason) for s in meta.shape) for meta in node.outputs]


Rule = Callable[[Flow, Node], "Sequence[Sequence[Expr] | None]"]
RULES: Registry[Rule] = Registry("rule", kind=Callable)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by base name: ``add`` covers ``aten.add.Tensor`` and ``aten.add_.Scalar``."""
    return RULES.register(*names)


def base_name(op: str) -> str:
    """Return the name under which the rule of an op is registered."""
    parts = op.split(".")
    if parts[0] != "aten":
        return ".".join(parts[:2])
    name = parts[1]
    return name.rstrip("_") if name.endswith("_") and not name.startswith("__") else name


def positive(dim: int, rank: int) -> int:
    """Return a non-negative dim index."""
    return dim + rank if dim < 0 else dim


__all__ = ["RULES", "ConflictError", "Dims", "Flow", "Rule", "base_name", "positive", "rule"]
