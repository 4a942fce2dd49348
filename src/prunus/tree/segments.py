"""Segments of concatenations: the axes that empty one, the nodes that are removed with it, the savings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunus.cost.price import CostModel, Term
from prunus.graph.coupling import Coupling, count
from prunus.graph.ir import Ref, refs_in
from prunus.graph.layout import Expr, Prod, Sum, atoms_of
from prunus.graph.rules.context import base_name
from prunus.tree.removal import CONCAT_OPS, Edge, Readers, is_empty, value_is_empty


@dataclass(frozen=True, slots=True)
class Segments:
    """A coupling with an index: atom → values, node → the concatenations that read it."""

    coupling: Coupling
    readers: Readers
    values: Mapping[int, tuple[Ref, ...]]
    users: Mapping[str, tuple[Edge, ...]]

    @staticmethod
    def of(coupling: Coupling, readers: Readers) -> Segments:
        """Build the index of a coupling."""
        values: dict[int, dict[Ref, None]] = {}
        for ref, dims in coupling.values.items():
            for expr in dims:
                for atom in atoms_of(expr):
                    values.setdefault(atom, {})[ref] = None
        users: dict[str, list[Edge]] = {}
        for node in coupling.graph.nodes:
            if base_name(node.op) in CONCAT_OPS:
                for i, ref in enumerate(refs_in(node.args)):
                    users.setdefault(ref.node, []).append(Edge(ref.node, node.name, i))
        return Segments(
            coupling,
            readers,
            {atom: tuple(refs) for atom, refs in values.items()},
            {name: tuple(edges) for name, edges in users.items()},
        )

    def emptying(self, expr: Expr) -> frozenset[int] | None:
        """Choose removable atoms without which a dim is empty; None where some part of it must stay.

        In a product, the factor that occurs in the fewest values is chosen.
        """
        chosen: set[int] = set()
        terms = expr.terms if isinstance(expr, Sum) else (expr,)
        for term in sorted(terms, key=lambda t: not isinstance(t, int)):
            if is_empty(term, frozenset(chosen)):
                continue
            atoms = self._emptying_term(term)
            if atoms is None:
                return None
            chosen |= atoms
        return frozenset(chosen)

    def _emptying_term(self, term: Expr) -> frozenset[int] | None:
        if isinstance(term, int):
            return frozenset({term}) if term in self.coupling.axis_of else None
        if not isinstance(term, Prod):
            return self.emptying(term)
        choices = [atoms for factor in term.factors if (atoms := self.emptying(factor))]
        return min(choices, key=lambda atoms: sum(len(self.values[a]) for a in atoms), default=None)

    def remove(self, atoms: frozenset[int]) -> tuple[frozenset[str], tuple[tuple[str, int], ...]] | None:
        """Return the nodes and the (join, operand)s that are removed when ``atoms`` are emptied.

        None where a value that is still needed would be empty.
        """
        touched = {ref for atom in atoms for ref in self.values.get(atom, ())}
        empty = {ref for ref in touched if value_is_empty(self.coupling, ref, atoms)}
        edges = [
            edge
            for ref in empty
            for edge in self.users.get(ref.node, ())
            if self._operand(edge) == ref and Ref(edge.user) not in empty
        ]
        dead = self.readers.gone(edges)
        if not edges or any(ref.node not in dead for ref in empty):
            return None
        node = self.coupling.graph.node
        lost = sorted((node(edge.user).order, edge.user, edge.place) for edge in edges if edge.user not in dead)
        return dead, tuple((join, place) for _, join, place in lost)

    def _operand(self, edge: Edge) -> Ref:
        operand: Ref = self.coupling.graph.node(edge.user).args["tensors"][edge.place]
        return operand


@dataclass(frozen=True, slots=True)
class Savings:
    """The cost terms by owner and by atom, which give the price of a branch without pricing the network."""

    cost: CostModel
    params: Mapping[str, tuple[Term, ...]]
    macs: Mapping[str, tuple[Term, ...]]
    touching: Mapping[int, tuple[Term, ...]]

    @staticmethod
    def of(cost: CostModel) -> Savings:
        """Build the index of a cost model."""
        touching: dict[int, dict[Term, None]] = {}
        for term in (*cost.params, *cost.macs):
            for expr in term.dims:
                for atom in atoms_of(expr):
                    touching.setdefault(atom, {})[term] = None
        return Savings(
            cost, _by_owner(cost.params), _by_owner(cost.macs), {atom: tuple(terms) for atom, terms in touching.items()}
        )

    def of_branch(self, dead: Iterable[str], tensors: Iterable[str], atoms: frozenset[int]) -> tuple[int, int]:
        """Return (params, forward MACs) saved where nodes and tensors are removed and ``atoms`` emptied."""
        nodes, names = set(dead), set(tensors)
        params = sum(self._full(t) for name in names for t in self.params.get(name, ()))
        macs = sum(self._full(t) for name in nodes for t in self.macs.get(name, ()))
        partly = {term: None for atom in atoms for term in self.touching.get(atom, ())}
        for term in partly:
            saved = self._full(term) - self._value(term, atoms)
            if term.owner in self.params and term.owner not in names:
                params += saved
            elif term.owner in self.macs and term.owner not in nodes:
                macs += saved
        return params, macs

    def _full(self, term: Term) -> int:
        return self._value(term, frozenset())

    def _value(self, term: Term, emptied: frozenset[int]) -> int:
        sizes = self.cost.coupling.sizes
        total: float = term.factor
        for expr in term.dims:
            total *= count(expr, lambda atom: 0 if atom in emptied else sizes[atom])
        return int(total)


def _by_owner(terms: Iterable[Term]) -> dict[str, tuple[Term, ...]]:
    by_owner: dict[str, list[Term]] = {}
    for term in terms:
        by_owner.setdefault(term.owner, []).append(term)
    return {owner: tuple(own) for owner, own in by_owner.items()}
