"""The layers of a network with their prices: modules with parameters or products of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunus.cost.price import CostModel, Term
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, refs_in
from prunus.graph.layout import atoms_of
from prunus.plans import Cost
from prunus.tree.units import UnitNames

FIXED = "fixed"
_NOTHING = Cost(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one axis in one layer, or the part on no removable axis (``axis`` empty).

    ``terms`` are the terms of its price.
    """

    name: str
    axis: str
    size: int
    price: Cost
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that has parameters or multiplies.

    Attributes:
        path, kind: path and class of the module; the path of the root is empty.
        order: position in the program of its first op.
        shapes: its own parameters, name → shape.
        nodes: its ops that multiply.
        units: its units; their prices sum to that of the layer.
    """

    path: str
    kind: str
    order: int
    shapes: Mapping[str, tuple[int, ...]]
    nodes: tuple[str, ...]
    units: tuple[Units, ...]

    @property
    def price(self) -> Cost:
        """The price of its own parameters and ops."""
        return total(u.price for u in self.units)


def total(prices: Iterable[Cost]) -> Cost:
    """Add up prices, field by field."""
    summed = _NOTHING
    for p in prices:
        summed = Cost(
            summed.params + p.params,
            summed.macs_forward + p.macs_forward,
            summed.macs_backward + p.macs_backward,
            summed.param_bytes + p.param_bytes,
        )
    return summed


def find_layers(cost: CostModel) -> tuple[Layer, ...]:
    """Return every layer, in the order of execution; parameters that nothing reads come last."""
    coupling, names = cost.coupling, UnitNames.of(cost.coupling)
    graph, first = coupling.graph, _first_reads(coupling.graph)
    terms: dict[str, list[tuple[Term, bool]]] = {}
    for term in cost.params:
        terms.setdefault(home(term.owner, graph.modules), []).append((term, True))
    for term in cost.macs:
        terms.setdefault(_multiplier(graph, graph.node(term.owner)), []).append((term, False))
    layers = []
    for path, own in terms.items():
        shapes = {t.owner: graph.tensors[t.owner].shape for t, is_parameter in own if is_parameter}
        nodes = tuple(dict.fromkeys(t.owner for t, is_parameter in own if not is_parameter))
        order = min([first[n] for n in shapes if n in first] + [graph.node(n).order for n in nodes], default=None)
        layers.append(
            Layer(
                path=path,
                kind=graph.modules.get(path, "").rpartition(".")[2],
                order=len(graph.nodes) * 10**6 if order is None else order,
                shapes=shapes,
                nodes=nodes,
                units=_units(cost, names, shapes, own),
            )
        )
    return tuple(sorted(layers, key=lambda layer: layer.order))


def home(tensor: str, modules: Mapping[str, str]) -> str:
    """Return the innermost module around a tensor."""
    path = tensor.rpartition(".")[0]
    while path not in modules and path:
        path = path.rpartition(".")[0]
    return path


def _multiplier(graph: Graph, node: Node) -> str:
    """Return the layer to which a product belongs: that of its weight, where it has one, else the calling module."""
    sources = (graph.node(ref.node) for ref in refs_in(node.args))
    weights = (s.tensor for s in sources if s.op == TENSOR and graph.tensors[s.tensor].kind == "parameter")
    weight = next(weights, None)
    return graph.module_of(node) if weight is None else home(weight, graph.modules)


def _first_reads(graph: Graph) -> dict[str, int]:
    first: dict[str, int] = {}
    for node in graph.nodes:
        if node.op not in (INPUT, TENSOR):
            for ref in refs_in(node.args):
                source = graph.node(ref.node)
                if source.op == TENSOR:
                    first.setdefault(source.tensor, node.order)
    return first


def _units(
    cost: CostModel,
    names: UnitNames,
    shapes: Mapping[str, tuple[int, ...]],
    own: Iterable[tuple[Term, bool]],
) -> tuple[Units, ...]:
    """Divide the terms of a layer among its axes: each belongs to the first axis that the layer writes, else reads."""
    coupling = cost.coupling
    kinds: dict[str, str] = {}
    prices: dict[str, list[Cost]] = {}
    terms: dict[str, list[Term]] = {}
    for term, _ in own:
        axes = list(dict.fromkeys(coupling.axis_of[a] for e in term.dims for a in atoms_of(e) if a in coupling.axis_of))
        for axis in axes:
            kinds.setdefault(axis, names.of_axis(axis, shapes))
        # min keeps the order of the dims among axes of one kind.
        owner = min(axes, key=lambda axis: kinds[axis] == "inputs", default="")
        prices.setdefault(owner, []).append(price_of(cost, term, {}))
        terms.setdefault(owner, []).append(term)
    units, taken = [], set[str]()
    for axis in sorted(kinds, key=lambda axis: kinds[axis] == "inputs"):
        name = free_name(kinds[axis], taken)
        size = coupling.axis(axis).size
        units.append(Units(name, axis, size, total(prices.get(axis, ())), tuple(terms.get(axis, ()))))
    if "" in prices:
        units.append(Units(free_name(FIXED, taken), "", 0, total(prices[""]), tuple(terms[""])))
    return tuple(units)


def free_name(base: str, taken: set[str]) -> str:
    """Return a name that is not taken, with a number where necessary, and add it to ``taken``."""
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}#{number}"
    taken.add(name)
    return name


def price_of(cost: CostModel, term: Term, kept: Mapping[str, int]) -> Cost:
    """Return the cost of one term where axes keep ``kept`` units."""
    amount = sum(cost.amounts([term], kept).values())
    if term.owner in cost.item_bytes:
        return Cost(amount, 0, 0, amount * cost.item_bytes[term.owner])
    return Cost(0, amount, term.backward * amount, 0)
