"""One program's demands, solved for the attributes of its modules; what is left over are equations and frozen axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref
from prunus.graph.kept_forward import Equation, Multiple
from prunus.graph.layout import Frozen
from prunus.graph.provenance import Provenance
from prunus.graph.rules.context import base_name
from prunus.graph.size_functions import Count, counted
from prunus.graph.traced import Attribute, Comparison, Operation, Size, is_constant
from prunus.surgery.keeping.size_demands import Demand, Forbidden, demands
from prunus.surgery.keeping.solve_attributes import Solver, UnsolvableError
from prunus.surgery.keeping.unread_units import cut_off


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one program.

    Attributes:
        attributes: module attribute → its value in kept counts; attributes that keep their value are here too.
        equations: equations between kept counts.
        multiples: counts that go in steps.
        frozen: atom → why it has to stay whole.
        emptied: atom that nothing reads and that goes first → the atoms that may lose units after that.
    """

    attributes: Mapping[Attribute, Count]
    equations: tuple[Equation, ...]
    multiples: tuple[Multiple, ...]
    frozen: Mapping[int, Frozen]
    emptied: Mapping[int, frozenset[int]] = field(default_factory=dict)


def terms(
    model: nn.Module, coupling: Coupling, known: Provenance, elsewhere: Callable[[Size], Count | None] | None = None
) -> Terms:
    """Solve the demands of a program for the attributes of its modules.

    Args:
        model: whose attributes they are.
        coupling: the analysis of the program.
        known: where its numbers come from.
        elsewhere: how the sizes of values follow a cut that the program does not hold.
    """

    def size(asked: Size) -> Count | None:
        count = count_of(coupling, asked)
        return elsewhere(asked) if count is None and elsewhere is not None else count

    solver = Solver(size, known.values, _implied(model, coupling, known))
    work = _Work(coupling, known, solver)
    multiples: list[Multiple] = []
    for item in demands(coupling, shipped_calls(model, coupling)):
        if isinstance(item, Multiple):
            multiples.append(item)
        elif isinstance(item, Forbidden):
            work.freeze(item.atoms, Frozen(item.reason, item.node))
        else:
            work.take(item)
    work.settle()
    equations = (*work.equations, *work.left_over())
    found = work.solver.found
    return Terms(dict(found), equations, (*multiples, *_whole_numbers(found)), work.frozen, work.emptied)


@dataclass(slots=True)
class _Work:
    """The demands of one program while they are solved; ``open`` holds those whose number is an expression."""

    coupling: Coupling
    known: Provenance
    solver: Solver
    open: list[tuple[Any, Demand]] = field(default_factory=list)
    equations: list[Equation] = field(default_factory=list)
    frozen: dict[int, Frozen] = field(default_factory=dict)
    emptied: dict[int, frozenset[int]] = field(default_factory=dict)
    nodes: dict[str, Node] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = {n.name: n for n in (*self.coupling.graph.nodes, *self.coupling.graph.recipes)}

    def freeze(self, atoms: Iterable[int], why: Frozen) -> None:
        """Hold axes whole; the first reason stays."""
        for atom in atoms:
            self.frozen.setdefault(atom, why)

    def take(self, demand: Demand) -> None:
        """Enter one demand: a bare attribute gets its value, a number of the code freezes what it counts."""
        if demand.other is not None:
            self.equations.append(Equation(demand.count, demand.other, demand.node, demand.reason))
            return
        node = self.nodes[demand.node]
        origin = self.known.origin(node, demand.key, demand.position)
        if is_constant(origin):
            behind = cut_off(self.coupling, node, demand.key)
            for atom in behind:
                self.emptied[atom] = self.emptied.get(atom, frozenset()) | demand.count.atoms()
            if not behind and demand.count.constant is None:
                self.freeze(demand.count.atoms(), _written(node, demand, origin))
        elif isinstance(origin, Attribute) and origin not in self.solver.found:
            self.solver.found[origin] = demand.count
        else:
            self.open.append((origin, demand))

    def settle(self) -> None:
        """Solve expressions for the attributes in them: first where one is unknown, then for one of several."""
        before = -1
        while before != len(self.solver.found):
            before = len(self.solver.found)
            for origin, demand in self.open:
                unknown = self.solver.unknown(origin)
                if len(unknown) == 1:
                    self._give(origin, demand.count, unknown.pop())
            self._give_compared()
        for origin, demand in self.open:
            for attribute in sorted(self.solver.unknown(origin), key=str):
                self._give(origin, demand.count, attribute)

    def _give(self, origin: Any, target: Count, attribute: Attribute) -> None:
        """Set an attribute so that an expression has its target; the dense network has to give its present value."""
        if _value(self.solver, origin) == target:
            return
        value = self.solver.solved(origin, target, attribute)
        if value is not None and value.at(self.coupling.sizes.__getitem__) == self.solver.old[attribute]:
            self.solver.found[attribute] = value

    def _give_compared(self) -> None:
        for one in self._asked_and_equal():
            for side, other in ((one.left, one.right), (one.right, one.left)):
                unknown, target = self.solver.unknown(side), _value(self.solver, other)
                if len(unknown) == 1 and target is not None and not self.solver.unknown(other):
                    self._give(side, target, unknown.pop())

    def _asked_and_equal(self) -> Iterator[Comparison]:
        """Yield the comparisons of equal numbers: they have to stay equal, as in ``if c != self.channels: raise``."""
        return (one for one in self.known.comparisons if (one.kind == "eq") is one.result)

    def left_over(self) -> Iterator[Equation]:
        """Yield the equations that remain when the attributes are solved for."""
        for origin, demand in self.open:
            value = _value(self.solver, origin)
            if value is None:
                self.freeze(demand.count.atoms(), Frozen(f"{demand.key} is computed as {origin}", demand.node))
            elif value != demand.count:
                yield Equation(value, demand.count, demand.node, f"{demand.key} is {origin}")
        for one in self._asked_and_equal():
            left, right = _value(self.solver, one.left), _value(self.solver, one.right)
            if left is not None and right is not None and left != right:
                yield Equation(left, right, "", f"{one.source} compares {one.left} and {one.right}")
        for (name, _, _), origin in self.known.origins.items():
            if _value(self.solver, origin) is None:
                yield from self._unchanged(origin, name)
        for origin, name in self.known.held.items():
            yield from self._unchanged(origin, name)

    def _unchanged(self, origin: Any, node: str) -> Iterator[Equation]:
        """Yield equations that keep the whole numbers in an expression without a formula, as in 1/√(C // H)."""
        value = _value(self.solver, origin)
        if value is None and isinstance(origin, Operation):
            yield from self._unchanged(origin.left, node)
            yield from self._unchanged(origin.right, node)
        elif value is not None and value.atoms():
            now = Count.of(value.at(self.coupling.sizes.__getitem__) or 0)
            yield Equation(value, now, node, f"a number that must not change is made of {origin}")


def _whole_numbers(attributes: Mapping[Attribute, Count]) -> Iterator[Multiple]:
    """Yield the steps in which a quotient by a number is whole; quotients by sizes are where the equations hold."""
    for attribute, count in attributes.items():
        if len(count.below) == 1 and count.below[0][0] == () and count.below[0][1] > 1:
            yield Multiple(Count(count.above), count.below[0][1], "", f"{attribute} is a share of it")


def _value(solver: Solver, origin: Any) -> Count | None:
    try:
        return solver.value(origin)
    except (UnsolvableError, ZeroDivisionError):
        return None


def _written(node: Node, demand: Demand, number: Any) -> Frozen:
    what = f"{demand.key} of {base_name(node.op)}"
    return Frozen(f"the code writes {number} as {what}; write -1, x.shape[…] or an attribute", node.name)


def count_of(coupling: Coupling, size: Size) -> Count | None:
    """Return the size of a value or a tensor in kept counts; None for one that the program does not hold."""
    dims = coupling.values.get(size.of) if isinstance(size.of, Ref) else coupling.tensors.get(size.of)
    if dims is None or size.dim >= len(dims):
        return None
    return counted(dims[size.dim], coupling.axis_of.__contains__, coupling.sizes)


# What modules of torch.nn remember of the shape of their weight: attribute → dim.
_REMEMBERED: tuple[tuple[type, Mapping[str, int]], ...] = (
    (nn.Linear, {"in_features": 1, "out_features": 0}),
    (nn.Embedding, {"num_embeddings": 0, "embedding_dim": 1}),
    (nn.modules.batchnorm._NormBase, {"num_features": 0}),
)


def _implied(model: nn.Module, coupling: Coupling, known: Provenance) -> dict[Attribute, Count]:
    """Return the attributes of torch.nn modules that repeat a size of their weight."""
    modules, found = dict(model.named_modules(remove_duplicate=False)), {}
    for attribute in known.values:
        module, name = modules.get(attribute.path), f"{attribute.path}.weight" if attribute.path else "weight"
        dims = coupling.tensors.get(coupling.graph.aliases.get(name, name))
        for kind, table in _REMEMBERED:
            if isinstance(module, kind) and attribute.name in table and dims is not None:
                expr = dims[table[attribute.name]]
                found[attribute] = counted(expr, coupling.axis_of.__contains__, coupling.sizes)
    return found


def shipped_calls(model: nn.Module, coupling: Coupling) -> frozenset[int]:
    """Return the calls of modules for which `prunus.nn` has one of any width."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return frozenset(c.index for c in coupling.graph.calls if type(modules.get(c.path)) is nn.MultiheadAttention)
