"""Producers and consumers of axes: the weights that write an axis, and the values in which consumers read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunus.criteria.weight_statistics import precise
from prunus.graph.axis import Axis, Member
from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Node, Ref, refs_in
from prunus.graph.layout import Expr, atoms_of

_CACHED = 2**16


@dataclass(frozen=True, slots=True)
class Edge:
    """One op in which an axis ends: it reads the axis from data and does not pass it on.

    Every path from a unit to the output crosses exactly one edge, so a unit is removed when all its edges are zero.

    Attributes:
        node: name of the op.
        number: index of the operand among the tensors that the op takes.
        ref: the value of this operand.
        weights: the weight dims that are contracted with the axis, if any.
    """

    node: str
    number: int
    ref: Ref
    weights: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """For every removable axis, its producing weight dims and the values in which consumers read it.

    Attributes:
        writes: axis id → dims of weights (two dims or more) whose product has the axis.
        reads: axis id → values in which the axis ends: inputs of a contraction, or outputs of the network.
        edges: axis id → the ops in which it ends; an output of the network is not an edge.
    """

    writes: Mapping[str, tuple[Member, ...]]
    reads: Mapping[str, tuple[Ref, ...]]
    edges: Mapping[str, tuple[Edge, ...]]


def find_places(coupling: Coupling) -> Places:
    """Find the producers and consumers of each axis, from the dims of the graph alone.

    At an op that joins data with weights, an axis on both sides of a weight (a residual branch of one convolution,
    the recurrent weight of an LSTM) is written by its output dim and read from the data.
    """
    writes: dict[str, dict[tuple[str, int], Member]] = {name: {} for name in coupling.axes}
    reads: dict[str, dict[Ref, None]] = {name: {} for name in coupling.axes}
    edges: dict[str, list[Edge]] = {name: [] for name in coupling.axes}
    roots, graph = _tensor_roots(coupling), coupling.graph
    for node in graph.nodes:
        refs = list(refs_in(node.args))
        data = [(number, ref) for number, ref in enumerate(refs) if ref.node not in roots]
        if not data:
            continue
        carried = {name for index in range(len(node.outputs)) for name in _axes(coupling, Ref(node.name, index))}
        looped: set[str] = set()
        read_by: dict[str, list[Member]] = {}
        for name, members in _weight_dims(coupling, {roots[ref.node] for ref in refs if ref.node in roots}):
            if name in carried:
                looped |= {name} if len(members) > 1 else set()
                chosen = members[_output_place(node, len(members))]
                writes[name].setdefault((chosen.tensor, chosen.dim), chosen)
                members = [member for member in members if member != chosen]
            read_by.setdefault(name, []).extend(members)
        for number, ref in data:
            ending = _axes(coupling, ref) - (carried - looped)
            for name in sorted(ending):
                reads[name].setdefault(ref)
            for name in sorted(ending | _matched(coupling, node, number, ref)):
                edges[name].append(Edge(node.name, number, ref, tuple(read_by.get(name, ()))))
    for ref in refs_in(list(graph.outputs)):
        for name in _axes(coupling, ref):
            reads[name].setdefault(ref)
    return Places(
        {name: tuple(found.values()) for name, found in writes.items()},
        {name: tuple(found) for name, found in reads.items()},
        {name: tuple(found) for name, found in edges.items()},
    )


def unit_line(coupling: Coupling, axis: Axis, expr: Expr, line: Tensor) -> Tensor:
    """Sum a value per position of one dim into a value per unit of an axis that lies on the dim.

    Shapes: line (positions of ``expr``,) → (axis.size,), float64 on the CPU.
    """
    values = line.detach().to(device="cpu", dtype=torch.float64)
    if expr == axis.atom:
        return values.clone()
    total = torch.zeros(axis.size, dtype=torch.float64)
    for where in coupling.positions(expr, axis):
        unit = torch.from_numpy(where)
        total.index_add_(0, unit[unit >= 0], values[unit >= 0])
    return total


def unit_columns(coupling: Coupling, axis: Axis, expr: Expr, lines: Tensor) -> Tensor:
    """Sum values per position of one dim into values per unit, for many lines at once.

    Shapes: lines (N, positions of ``expr``) → (N, axis.size), float64 on the CPU.
    """
    values = lines.detach().to(device="cpu", dtype=torch.float64)
    if expr == axis.atom:
        return values
    total = torch.zeros(len(values), axis.size, dtype=torch.float64)
    for where in coupling.positions(expr, axis):
        unit = torch.from_numpy(where)
        total.index_add_(1, unit[unit >= 0], values[:, unit >= 0])
    return total


def unit_rows(coupling: Coupling, axis: Axis, member: Member, weight: Tensor) -> Iterator[Tensor]:
    """Yield, for each occurrence of an axis in a weight dim, all elements of each unit.

    Shapes: weight as in the model → (axis.size, elements a unit), float64 on the CPU.
    """
    lines = weight.detach().movedim(member.dim, 0).reshape(weight.shape[member.dim], -1)
    lines = lines.to(device="cpu", dtype=torch.float64)
    for where in coupling.positions(member.expr, axis):
        # Every unit has equally many positions in an occurrence; sorted by unit they become its row.
        places = np.argsort(where, kind="stable")[int((where < 0).sum()) :]
        yield lines[torch.from_numpy(places)].reshape(axis.size, -1)


def dim_sums(value: Tensor, dim: int) -> Tensor:
    """Sum over every dim but one, in float64. Shapes: (…, D, …) → (D,)."""
    return value.detach().movedim(dim, 0).reshape(value.shape[dim], -1).sum(1, dtype=torch.float64)


def square_sums(value: Tensor, dim: int) -> Tensor:
    """Sum the squares over every dim but one, in float64. Shapes: (…, D, …) → (D,)."""
    rows = precise(value).movedim(dim, 0).reshape(value.shape[dim], -1)
    # Blocks of a few rows stay in the cache: float64 copies of all weights would cost more than the sums.
    step = max(1, _CACHED // max(1, rows.shape[1]))
    return torch.cat([part.double().square().sum(1) for part in torch.split(rows, step)])


def _axes(coupling: Coupling, ref: Ref) -> set[str]:
    dims = coupling.values.get(ref, ())
    return {coupling.axis_of[atom] for expr in dims for atom in atoms_of(expr) if atom in coupling.axis_of}


def _matched(coupling: Coupling, node: Node, number: int, ref: Ref) -> set[str]:
    """Return the axes on which attention matches queries with keys; they end there, even if the values have them."""
    if "dot_product_attention" not in node.op or number > 1:
        return set()
    last = coupling.values.get(ref, ())[-1:]
    return {coupling.axis_of[atom] for expr in last for atom in atoms_of(expr) if atom in coupling.axis_of}


def _tensor_roots(coupling: Coupling) -> dict[str, str]:
    """Map each node that depends on no input to the tensor from which it is computed."""
    roots: dict[str, str] = {}
    for node in coupling.graph.nodes:
        if node.op == TENSOR:
            roots[node.name] = node.tensor
        elif node.op != INPUT:
            sources = [roots.get(ref.node) for ref in refs_in(node.args)]
            known = [source for source in sources if source is not None]
            if len(known) == len(sources):
                roots[node.name] = known[0] if known else ""
    return roots


def _weight_dims(coupling: Coupling, tensors: Iterable[str]) -> Iterable[tuple[str, list[Member]]]:
    for tensor in sorted(tensors):
        info = coupling.graph.tensors.get(tensor)
        if info is None or info.kind != "parameter" or len(info.shape) < 2:
            continue
        members: dict[str, list[Member]] = {}
        for dim, expr in enumerate(coupling.tensors[tensor]):
            for atom in dict.fromkeys(atoms_of(expr)):
                if atom in coupling.axis_of:
                    members.setdefault(coupling.axis_of[atom], []).append(Member(tensor, dim, expr))
        yield from members.items()


def _output_place(node: Node, count: int) -> int:
    # Of two dims on one axis the output is the first, but transposed convolutions and x @ W store (I, O).
    stored_input_first = "transpose" in node.op or node.op.split(".")[1] in ("matmul", "mm", "addmm", "bmm")
    return count - 1 if stored_input_first else 0
