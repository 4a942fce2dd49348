"""One program's demands, solved for the attributes of its modules; what is left over are equations and frozen axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunus.graph.counts import Count, counted
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Node, Ref
from prunus.graph.kept_forward import Equation, Multiple
from prunus.graph.layout import Frozen
from prunus.graph.provenance import Provenance
from prunus.graph.rules.flow import base_name
from prunus.graph.traced import Attribute, Operation, Size, is_constant
from prunus.surgery.demands import Demand, Forbidden, demands
from prunus.surgery.solving import Solver, UnsolvableError
from prunus.surgery.unread import cut_off


@dataclass(frozen=True, slots=True)
class Terms:
    """What one program asks for.

    Attributes:
        attributes: module attribute → what it has to be; those that have to stay are here too.
        equations: what has to hold between kept counts.
        multiples: what goes in steps.
        frozen: atom → why it has to stay whole.
        emptied: atom that nothing reads and that goes first → the atoms that may lose units after that.
    """

    attributes: Mapping[Attribute, Count]
    equations: tuple[Equation, ...]
    multiples: tuple[Multiple, ...]
    frozen: Mapping[int, Frozen]
    emptied: Mapping[int, frozenset[int]] = field(default_factory=dict)


def terms(model: nn.Module, coupling: Coupling, known: Provenance) -> Terms:
    """Solve a program for the attributes of its modules.

    Args:
        model: whose attributes they are.
        coupling: the analysis of the program.
        known: where its numbers come from.
    """
    wanted = list(demands(coupling, shipped_calls(model, coupling)))
    frozen: dict[int, Frozen] = {}
    emptied: dict[int, frozenset[int]] = {}
    for item in wanted:
        if isinstance(item, Forbidden):
            frozen |= {a: Frozen(item.reason, item.node) for a in item.atoms if a not in frozen}
    solver = Solver(lambda size: _count_of(coupling, size), known.values, _implied(model, coupling, known))
    equations = [*_solve(coupling, known, solver, [d for d in wanted if isinstance(d, Demand)], frozen, emptied)]
    multiples = [d for d in wanted if isinstance(d, Multiple)]
    return Terms(dict(solver.found), tuple(equations), (*multiples, *_whole_numbers(solver.found)), frozen, emptied)


def _solve(
    coupling: Coupling,
    known: Provenance,
    solver: Solver,
    wanted: list[Demand],
    frozen: dict[int, Frozen],
    emptied: dict[int, frozenset[int]],
) -> Iterator[Equation]:
    """Settle the attributes one by one, the bare ones first, and yield what has to hold besides."""
    nodes = {n.name: n for n in (*coupling.graph.nodes, *coupling.graph.recipes)}
    left: list[tuple[Any, Demand]] = []
    for demand in wanted:
        if demand.other is not None:
            yield Equation(demand.count, demand.other, demand.node, demand.reason)
            continue
        origin = known.origin(nodes[demand.node], demand.key, demand.position)
        if is_constant(origin):
            behind = cut_off(coupling, nodes[demand.node], demand.key)
            if behind:
                for atom in behind:
                    emptied[atom] = emptied.get(atom, frozenset()) | demand.count.atoms()
            elif demand.count.constant is None:
                for atom in demand.count.atoms():
                    frozen.setdefault(atom, _written(nodes[demand.node], demand, origin))
        elif isinstance(origin, Attribute) and origin not in solver.found:
            solver.found[origin] = demand.count
        else:
            left.append((origin, demand))
    before, sizes = -1, coupling.sizes.__getitem__
    while before != len(solver.found):
        before = len(solver.found)
        for origin, demand in left:
            unknown = solver.unknown(origin)
            if len(unknown) == 1 and _value(solver, origin) != demand.count:
                _settle(solver, sizes, origin, demand.count, unknown.pop())
    for origin, demand in left:
        for attribute in sorted(solver.unknown(origin), key=str):
            if _value(solver, origin) != demand.count:
                _settle(solver, sizes, origin, demand.count, attribute)
        value = _value(solver, origin)
        if value is None:
            for atom in demand.count.atoms():
                frozen.setdefault(atom, Frozen(f"{demand.key} is computed as {origin}", demand.node))
        elif value != demand.count:
            yield Equation(value, demand.count, demand.node, f"{demand.key} is {origin}")
    yield from _compared(known, solver, sizes)
    for (name, _, _), origin in known.origins.items():
        if _value(solver, origin) is None:
            yield from _unchanged(solver, sizes, origin, name)
    for origin, name in known.held.items():
        yield from _unchanged(solver, sizes, origin, name)


def _whole_numbers(attributes: Mapping[Attribute, Count]) -> Iterator[Multiple]:
    """Yield that quotients by a number come out whole; those by sizes do where the equations hold."""
    for attribute, count in attributes.items():
        if len(count.below) == 1 and count.below[0][0] == () and count.below[0][1] > 1:
            yield Multiple(Count(count.above), count.below[0][1], "", f"{attribute} is a share of it")


def _unchanged(solver: Solver, sizes: Callable[[int], int], origin: Any, node: str) -> Iterator[Equation]:
    """Yield that the whole numbers inside an expression keep their values, for its own has no formula: 1/√(C // H)."""
    value = _value(solver, origin)
    if value is None and isinstance(origin, Operation):
        yield from _unchanged(solver, sizes, origin.left, node)
        yield from _unchanged(solver, sizes, origin.right, node)
    elif value is not None and value.atoms():
        yield Equation(
            value, Count.of(value.at(sizes) or 0), node, f"a number that must not change is made of {origin}"
        )


def _settle(solver: Solver, sizes: Callable[[int], int], origin: Any, target: Count, attribute: Attribute) -> None:
    """Give an attribute the value that makes an expression what it has to be; a whole network gives it the old one."""
    value = solver.solved(origin, target, attribute)
    if value is not None and value.at(sizes) == solver.old[attribute]:
        solver.found[attribute] = value


def _compared(known: Provenance, solver: Solver, sizes: Callable[[int], int]) -> Iterator[Equation]:
    """What was equal, and was asked for, has to stay equal: ``if channels != self.channels: raise``."""
    for one in known.comparisons:
        if (one.kind == "eq") is not one.result:
            continue
        for side, other in ((one.left, one.right), (one.right, one.left)):
            unknown, target = solver.unknown(side), _value(solver, other)
            if len(unknown) == 1 and target is not None and not solver.unknown(other):
                _settle(solver, sizes, side, target, unknown.pop())
        left, right = _value(solver, one.left), _value(solver, one.right)
        if left is not None and right is not None and left != right:
            yield Equation(left, right, "", f"{one.source} compares {one.left} and {one.right}")


def _value(solver: Solver, origin: Any) -> Count | None:
    try:
        return solver.value(origin)
    except (UnsolvableError, ZeroDivisionError):
        return None


def _written(node: Node, demand: Demand, number: Any) -> Frozen:
    what = f"{demand.key} of {base_name(node.op)}"
    return Frozen(f"the code writes {number} as {what}; write -1, x.shape[…] or an attribute", node.name)


def _count_of(coupling: Coupling, size: Size) -> Count | None:
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
    """Return what attributes of torch.nn have to be because their weight has a shape."""
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
