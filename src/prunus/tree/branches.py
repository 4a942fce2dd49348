"""Branches: operands of additions and concatenations that a network can do without."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from prunus.cost.price import cost_model
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, Graph, Node, Ref, refs_in
from prunus.graph.rules.context import base_name
from prunus.plans import Drop
from prunus.tree.aliasing import Storage
from prunus.tree.naming import branch_names
from prunus.tree.removal import CONCAT_OPS, Readers, operand_edges
from prunus.tree.segments import Savings, Segments


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """One operand of a join that can be bypassed, with everything that only it needs.

    Attributes:
        id: stable and readable, after the module that holds its parameters: ``layer1.1``.
        label: the same with the place of the join, for people.
        kind: ``residual`` (operand of an addition) or ``concat`` (segment of a concatenation).
        join: name of the (first) join node.
        operand: which operand of it.
        value: the operand.
        axes: what has to be emptied (``concat``); nothing for ``residual``.
        nodes: the nodes that fall away, branches inside this one included.
        tensors: the tensors that fall away whole.
        params, macs_forward: what dropping this branch alone saves; the slices of readers of a segment count too.
        edges: every (join, operand) that goes with it; the first is ``join``, ``operand``.
    """

    id: str
    label: str
    kind: str
    join: str
    operand: int
    value: Ref
    axes: tuple[str, ...]
    nodes: frozenset[str]
    tensors: tuple[str, ...]
    params: int
    macs_forward: int
    edges: tuple[tuple[str, int], ...]

    @property
    def group(self) -> tuple[str, ...]:
        """The joins it ends in; one operand at least of each must stay."""
        return tuple(dict.fromkeys(join for join, _ in self.edges))

    @property
    def drop(self) -> Drop | None:
        """The bypass to put into a plan; None for a segment, which goes by emptying its axes."""
        return Drop(self.join, self.operand, self.id) if self.kind == "residual" else None

    def holds(self, other: Branch) -> bool:
        """Whether another branch lies inside this one, and goes with it."""
        return other.id != self.id and all(join in self.nodes for join in other.group)


def find_branches(coupling: Coupling) -> tuple[Branch, ...]:
    """Return every branch of a network, in the order of their joins; branches may lie inside one another.

    An operand of an addition is a branch if both operands are computed from the input and have the shape of the sum,
    nothing is broadcast or scaled, and some parameter serves this operand only: an identity shortcut is none, a
    projection shortcut and the main path beside it both are, and one of the two must stay. An operand of a
    concatenation is a branch if its axes can be emptied without emptying anything that is still needed.

    The work grows with the graph and with the total size of the branches.
    """
    graph = coupling.graph
    readers, savings = Readers.of(graph), Savings.of(cost_model(coupling))
    found = [*_residual(graph, readers, savings), *_concat(coupling, readers, savings)]
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    found.sort(key=lambda b: (order[b.join], b.operand))
    fallbacks = [graph.module_of(graph.node(b.join)) or b.join for b in found]
    parameters = [[name for name in b.tensors if graph.tensors[name].kind == "parameter"] for b in found]
    names = branch_names(graph, parameters, fallbacks)
    return tuple(
        dataclasses.replace(b, id=name, label=f"{name} ({b.kind} operand {b.operand} of {fallback})")
        for b, name, fallback in zip(found, names, fallbacks, strict=True)
    )


def breaks_a_size(coupling: Coupling, branch: Branch) -> bool:
    """Return whether a kept forward computes another size from the axes that a dropped branch empties."""
    own = coupling.forward
    none = {axis: np.zeros(coupling.axes[axis].size, bool) for axis in branch.axes}
    return own is not None and any(True for _ in own.broken(coupling, none))


def residual_joins(graph: Graph) -> Iterator[Node]:
    """Yield the additions of two values that depend on the input, both of the sum's own shape and dtype, unscaled."""
    active: set[str] = set()
    for node in graph.nodes:
        if node.op == INPUT or any(ref.node in active for ref in refs_in(node.args)):
            active.add(node.name)
        if base_name(node.op) != "add" or not node.op.startswith("aten.") or node.get("alpha") != 1:
            continue
        operands = list(refs_in(node.args))
        if len(operands) == 2 and all(r.node in active and graph.meta(r) == node.outputs[0] for r in operands):
            yield node


def concat_joins(graph: Graph) -> Iterator[Node]:
    """Yield the concatenations of at least two values."""
    for node in graph.nodes:
        if node.op.startswith("aten.") and base_name(node.op) in CONCAT_OPS and len(node.args["tensors"]) > 1:
            yield node


def _residual(graph: Graph, readers: Readers, savings: Savings) -> Iterator[Branch]:
    storage = Storage.of(graph)
    for node in residual_joins(graph):
        operands = list(refs_in(node.args))
        for i, edge in enumerate(operand_edges(graph, node.name)):
            dead = readers.gone([edge])
            tensors = readers.tensors(dead)
            if not any(graph.tensors[name].kind == "parameter" for name in tensors):
                continue
            if storage.can_bypass(node.name, stays=operands[1 - i], goes=operands[i]):
                params, macs = savings.of_branch(dead, tensors, frozenset())
                yield _branch("residual", node, i, operands[i], (), dead, tensors, params, macs, ((node.name, i),))


def _concat(coupling: Coupling, readers: Readers, savings: Savings) -> Iterator[Branch]:
    segments = Segments.of(coupling, readers)
    seen: set[frozenset[int]] = set()
    for node in concat_joins(coupling.graph):
        dim = node.args["dim"] % len(node.shape)
        for i, ref in enumerate(node.args["tensors"]):
            dims = coupling.values[ref]
            # An empty vector may stand beside operands of any rank, as an unused cache does.
            if len(dims) != len(node.shape):
                continue
            atoms = segments.emptying(dims[dim])
            if atoms is None or atoms in seen:
                continue
            seen.add(atoms)
            removal = segments.remove(atoms)
            if removal is None:
                continue
            dead, edges = removal
            tensors = readers.tensors(dead)
            if any(coupling.graph.tensors[name].kind == "parameter" for name in tensors):
                axes = tuple(coupling.axis_of[a] for a in sorted(atoms))
                params, macs = savings.of_branch(dead, tensors, atoms)
                yield _branch("concat", node, i, ref, axes, dead, tensors, params, macs, edges)


def _branch(
    kind: str,
    node: Node,
    operand: int,
    value: Ref,
    axes: Sequence[str],
    dead: frozenset[str],
    tensors: tuple[str, ...],
    params: int,
    macs: int,
    edges: tuple[tuple[str, int], ...],
) -> Branch:
    return Branch("", "", kind, node.name, operand, value, tuple(axes), dead, tensors, params, macs, edges)
