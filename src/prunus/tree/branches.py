"""Branches: operands of additions and concatenations that can be removed from a network."""

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
    """One operand of a join that can be bypassed, with all nodes and tensors that only it needs.

    Attributes:
        id: stable and readable, after the module that holds its parameters: ``layer1.1``.
        label: the id with the place of the join, for messages.
        kind: ``residual`` (operand of an addition) or ``concat`` (segment of a concatenation).
        join: name of the (first) join node.
        operand: number of the operand at the join.
        value: the operand.
        axes: axes to empty (``concat``); none for ``residual``.
        nodes: the removed nodes, including those of branches inside this one.
        tensors: the tensors that are removed whole.
        params, macs_forward: savings of dropping this branch alone, including the slices of readers of a segment.
        edges: every (join, operand) that is removed with it; the first is ``join``, ``operand``.
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
        """The joins at which it ends; at least one operand of each must stay."""
        return tuple(dict.fromkeys(join for join, _ in self.edges))

    @property
    def drop(self) -> Drop | None:
        """The bypass for a plan; None for a segment, which is removed by emptying its axes."""
        return Drop(self.join, self.operand, self.id) if self.kind == "residual" else None

    def holds(self, other: Branch) -> bool:
        """Tell whether another branch lies inside this one and is removed with it."""
        return other.id != self.id and all(join in self.nodes for join in other.group)


def find_branches(coupling: Coupling) -> tuple[Branch, ...]:
    """Return every branch of a network, in the order of their joins; branches may lie inside one another.

    An operand of an addition is a branch if both operands are computed from the input and have the shape of the sum,
    nothing is broadcast or scaled, and some parameter serves this operand only. So an identity shortcut is no branch; a
    projection shortcut and the main path beside it are two, of which one must stay. An operand of a concatenation is a
    branch if its axes can be emptied without emptying a value that is still needed.

    The cost of the search is proportional to the graph plus the total size of the branches.
    """
    graph = coupling.graph
    readers, savings = Readers.of(graph), Savings.of(cost_model(coupling))
    branches = [*_residual(graph, readers, savings), *_concat(coupling, readers, savings)]
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    branches.sort(key=lambda b: (order[b.join], b.operand))
    fallbacks = [graph.module_of(graph.node(b.join)) or b.join for b in branches]
    parameters = [[name for name in b.tensors if graph.tensors[name].kind == "parameter"] for b in branches]
    names = branch_names(graph, parameters, fallbacks)
    return tuple(
        dataclasses.replace(b, id=name, label=f"{name} ({b.kind} operand {b.operand} of {fallback})")
        for b, name, fallback in zip(branches, names, fallbacks, strict=True)
    )


def breaks_a_size(coupling: Coupling, branch: Branch) -> bool:
    """Return whether a kept forward computes another size from the axes that a dropped branch empties."""
    own = coupling.forward
    none = {axis: np.zeros(coupling.axes[axis].size, bool) for axis in branch.axes}
    return own is not None and any(True for _ in own.broken(lambda atom: coupling.kept(atom, none)))


def residual_joins(graph: Graph) -> Iterator[Node]:
    """Yield the unscaled additions of two values that depend on the input and have the shape and dtype of the sum."""
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
            # An empty vector, such as an unused cache, may be joined with operands of any rank.
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
