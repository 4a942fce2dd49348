"""What it takes for a model to keep its forwards: attributes as formulas, axes to freeze, equations between sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from prunus.graph.counts import Count, counted
from prunus.graph.coupling import Coupling, Tie, frozen_axes
from prunus.graph.ir import INPUT, TENSOR, Node, Ref
from prunus.graph.layout import Frozen, Prod, atoms_of
from prunus.graph.provenance import Provenance, provenance
from prunus.graph.rules.flow import base_name
from prunus.graph.traced import Attribute, Operation, Size, is_constant
from prunus.surgery.demands import Demand, Forbidden, demands, without_calls
from prunus.surgery.solving import Equation, Multiple, Solver, UnsolvableError
from prunus.surgery.ties import Ties, tied


@dataclass(frozen=True, slots=True)
class OwnForward:
    """The terms on which every forward of a model stays the user's.

    Attributes:
        attributes: module attribute → what it has to be, in kept counts.
        frozen: axis id → why it has to stay whole, and the node that wants it.
        ties: axes whose kept counts are in fixed proportion.
        equations: everything that has to hold between kept counts.
        multiples: what goes in steps.
        old: what the attributes hold now.
        why: why nothing is known of the numbers of this program; empty where it is.
    """

    attributes: Mapping[Attribute, Count] = field(default_factory=dict)
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    ties: tuple[Tie, ...] = ()
    equations: tuple[Equation, ...] = ()
    multiples: tuple[Multiple, ...] = ()
    old: Mapping[Attribute, int] = field(default_factory=dict)
    why: str = ""

    def on(self, coupling: Coupling) -> Coupling:
        """Return an analysis in which the axes that have to stay whole are frozen, and the others tied."""
        return replace(frozen_axes(coupling, self.frozen), ties=self.ties, keeps_forward=True)


def own_forward(model: nn.Module, coupling: Coupling, example_inputs: Any, *, head_dims: str = "whole") -> OwnForward:
    """Say what a cut has to respect so that no forward has to be rewritten. The model is untouched.

    Args:
        model: what ``coupling`` was made from.
        coupling: its analysis, with every axis that may be cut at all.
        example_inputs: what it was captured with.
        head_dims: ``whole`` lets heads go one by one, not the width of a head; ``free`` lets widths go where the code
            allows it.
    """
    known = provenance(model, coupling.graph, example_inputs)
    exempt = shipped_calls(model, coupling)
    whole = _head_dims(coupling) if head_dims == "whole" else {}
    return terms(model, without_calls(coupling, exempt), known, whole)


def terms(
    model: nn.Module, coupling: Coupling, known: Provenance, whole: Mapping[int, Frozen] | None = None
) -> OwnForward:
    """Solve a program for its attributes; see `own_forward`.

    Args:
        model: whose attributes they are.
        coupling: the analysis.
        known: where its numbers come from.
        whole: atoms that stay whole in any case, and why.
    """
    wanted = list(demands(coupling))
    frozen = dict(whole or {})
    for item in wanted:
        if isinstance(item, Forbidden):
            frozen |= {a: Frozen(item.reason, item.node) for a in item.atoms if a not in frozen}
    solver = Solver(lambda size: _count_of(coupling, size), known.values, _implied(model, coupling, known))
    equations = [*_solve(coupling, known, solver, [d for d in wanted if isinstance(d, Demand)], frozen)]
    attributes = {a: n for a, n in solver.found.items() if n != solver.old.get(a)}
    multiples = [d for d in wanted if isinstance(d, Multiple)] + list(_whole_numbers(attributes))
    found: Ties = tied(coupling, equations, multiples, frozen)
    names = coupling.axis_of
    return OwnForward(
        attributes,
        {names[a]: why for a, why in found.frozen.items() if a in names},
        found.ties,
        tuple(equations),
        tuple(multiples),
        known.values,
        known.why,
    )


def _solve(
    coupling: Coupling, known: Provenance, solver: Solver, wanted: list[Demand], frozen: dict[int, Frozen]
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
            if demand.count.constant is None:
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


def _head_dims(coupling: Coupling) -> dict[int, Frozen]:
    """Return the atoms that are the width of a head where heads can go: what attention contracts, and its values."""
    inside: dict[int, str] = {}
    for node in coupling.graph.nodes:
        for ref in _attended(coupling, node):
            for expr in coupling.values[ref][-2:]:
                inside.update(dict.fromkeys(atoms_of(expr), node.name))
    beside = {
        a
        for dims in coupling.tensors.values()
        for expr in dims
        for product in _products(expr)
        if any(a in coupling.axis_of and a not in inside for a in atoms_of(product))
        for a in atoms_of(product)
    }
    return {a: Frozen("head dims stay whole, heads go", node) for a, node in inside.items()
            if a in coupling.axis_of and a in beside}  # fmt: skip


def _products(expr: Any) -> Iterator[Prod]:
    if isinstance(expr, Prod):
        yield expr
    elif not isinstance(expr, int):
        for term in expr.terms:
            yield from _products(term)


def _attended(coupling: Coupling, node: Node) -> list[Ref]:
    """Return the operands of a product of two activations, queries, keys and values among them."""
    if node.op in (INPUT, TENSOR):
        return []
    name = base_name(node.op)
    if name == "scaled_dot_product_attention":
        return [node.args[k] for k in ("query", "key", "value")]
    if name in ("matmul", "bmm", "baddbmm"):
        refs = [r for r in list(node.args.values())[1 if name == "baddbmm" else 0 :] if isinstance(r, Ref)][:2]
    elif name == "einsum":
        refs = list(node.args["tensors"])
    else:
        return []
    if len(refs) != 2 or any(coupling.graph.node(r.node).op == TENSOR for r in refs):
        return []
    return refs
