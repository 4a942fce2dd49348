"""Integer values that are positions of a dim: token ids, chosen experts, constant indices."""

from __future__ import annotations

from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.layout import Expr, Frozen, Layout

# Ops whose first result holds the numbers of their first argument, at other positions or in another dtype.
_CARRYING = """
view reshape flatten unflatten _unsafe_view view_as reshape_as permute transpose t movedim unsqueeze squeeze
expand expand_as repeat repeat_interleave slice narrow select split split_with_sizes chunk unbind to _to_copy type_as
contiguous clone detach alias lift_fresh lift_fresh_copy long int float double index index_select gather sort swapaxes
roll flip dropout
"""
_CARRIERS = frozenset(_CARRYING.split())
_JOINS = frozenset(("cat", "concat", "concatenate", "stack"))
# Ops that use the shape of an argument and not its numbers.
_BLIND = frozenset(
    ("zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full")
)


class Ids:
    """Follows values that are positions of a dim; a dim is frozen where an op uses its positions in any other way.

    A *source* is the node from which such values come: an input, a constant, a top-k. Its dim is known from the start,
    or from the first lookup that uses one of its values.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._source: dict[Ref, str] = {}
        self._dim: dict[str, Expr] = {}
        self._spoiled: dict[str, Frozen] = {}
        self._understood: set[Ref] = set()
        self._compared: dict[str, str] = {}

    def give(self, ref: Ref, source: str, dim: Expr | None = None) -> None:
        """Note that a value holds positions of ``dim``, or of a dim not yet known."""
        self._source[ref] = source
        if dim is not None:
            self._dim[source] = dim

    def dim(self, ref: Ref) -> Expr | None:
        """Return the dim whose positions a value holds; None where it holds none or the dim is not known yet."""
        known = self._dim.get(self._source.get(ref, ""))
        return None if known is None else self._layout.norm(known)

    def looks_up(self, ref: Ref, dim: Expr) -> bool:
        """Note that the present op uses a value as positions of ``dim``; return False for a value without a source."""
        source = self._source.get(ref)
        if source is None:
            return False
        known = self._dim.setdefault(source, dim)
        self._layout.unify(known, dim)
        if source in self._spoiled:
            self._layout.freeze(dim, self._spoiled[source])
        self._understood.add(ref)
        return True

    def understood(self, ref: Ref) -> None:
        """Note that the present op uses a value only in ways that stay right when a cut renumbers it."""
        self._understood.add(ref)

    def compared(self, ref: Ref, node: Node) -> None:
        """Note that an op compares a value with one position, given as a number."""
        if ref in self._source:
            self._compared[node.name] = self._source[ref]
            self._understood.add(ref)

    def comparisons(self) -> dict[str, Expr]:
        """Return node → dim for the ops that compare positions of a dim with a number."""
        known = self.sources()
        return {node: known[source] for node, source in self._compared.items() if source in known}

    def spoil(self, ref: Ref, reason: str) -> None:
        """Freeze the dim whose positions a value holds."""
        source = self._source.get(ref)
        if source is None:
            return
        why = self._spoiled.setdefault(source, Frozen(reason, self._layout.node))
        if source in self._dim:
            self._layout.freeze(self._dim[source], why)

    def pass_on(self, node: Node, name: str) -> None:
        """Pass positions from the arguments of an op to its results, after its rule has run."""
        refs = [r for r in refs_in(node.args) if r in self._source]
        if refs and name in _JOINS and len(refs) == len(list(refs_in(node.args))) and self._is_one_dim(refs):
            self.give(Ref(node.name), self._source[refs[0]])
        else:
            self._carry(node, name, refs)
        self._understood.clear()

    def _carry(self, node: Node, name: str, refs: list[Ref]) -> None:
        first = node.get("self", node.get("input"))
        for ref in refs:
            if ref == first and name in _CARRIERS:
                count = 1 if name == "sort" else len(node.outputs)
                for i in range(count):
                    self.give(Ref(node.name, i), self._source[ref])
            elif name not in _BLIND and ref not in self._understood:
                self.spoil(ref, f"ids in {name}")

    def _is_one_dim(self, refs: list[Ref]) -> bool:
        dims = [self.dim(r) for r in refs]
        return len({self._source[r] for r in refs}) == 1 or (None not in dims and len(set(dims)) == 1)

    def sources(self) -> dict[str, Expr]:
        """Return every source whose dim is known."""
        return {source: self._layout.norm(dim) for source, dim in self._dim.items()}
