"""The parameters that produce a unit: the weights that write it with their biases, or the norm that follows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import dim_sums, find_places, unit_line
from prunus.criteria.unit_criterion import finite
from prunus.errors import DataError
from prunus.graph.axis import Member
from prunus.graph.coupling import Coupling
from prunus.graph.ir import TENSOR, Graph, Node, refs_in
from prunus.graph.layout import atoms_of
from prunus.graph.rules.context import base_name

CHANNEL_NORMS = ("batch_norm", "instance_norm", "group_norm")


def written(
    coupling: Coupling, values: Mapping[str, Tensor], sums: Callable[[Tensor, int], Tensor] = dim_sums
) -> dict[str, Tensor]:
    """Sum values over the weights that write each unit; over all weights that lie on it where none is known.

    Args:
        coupling: the axes of the network.
        values: tensor name → one value a weight.
        sums: (value, dim) → a sum for each position of the dim.

    Raises:
        DataError: a weight that writes an axis has no value, or a sum is not finite.
    """
    writes, scores = find_places(coupling).writes, {}
    for name, axis in coupling.axes.items():
        total = torch.zeros(axis.size, dtype=torch.float64)
        for member in writes[name] or axis.members:
            if coupling.graph.tensors[member.tensor].kind != "parameter":
                continue
            if member.tensor not in values:
                if not writes[name]:
                    continue
                raise DataError(f"axis {name!r} is written by {member.tensor!r}, for which there is no value; add it.")
            total += unit_line(coupling, axis, member.expr, sums(values[member.tensor], member.dim))
        scores[name] = finite(name, total)
    return scores


def channel_norms(coupling: Coupling) -> dict[str, tuple[Member, ...]]:
    """Return, per axis, the scales γ of the batch, instance and group norms on it."""
    return {
        axis: tuple(m for node in nodes for m in _affine(coupling, axis, node, "weight"))
        for axis, nodes in _norms_on(coupling).items()
    }


def gate_parameters(coupling: Coupling) -> dict[str, tuple[Member, ...]]:
    """Return, per axis, the parameters that a gate on its units scales, those of each producer once.

    A producing weight comes with its bias. Where a norm is the only consumer of its output, the norm's scale and shift
    replace both: the gate is behind the norm, because the norm's channel is removed with the unit.
    """
    writes, norms = find_places(coupling).writes, _norms_on(coupling)
    readers = _readers(coupling.graph)
    parameters: dict[str, tuple[Member, ...]] = {}
    for axis, members in writes.items():
        chosen: dict[tuple[str, int], Member] = {}
        for member in members:
            producers = [
                _producer(coupling, axis, member, node, readers, norms[axis]) for node in _users(coupling, member)
            ]
            for producer in producers or [(member,)]:
                chosen.update({(m.tensor, m.dim): m for m in producer})
        parameters[axis] = tuple(chosen.values()) or _parameters(coupling, axis)
    return parameters


def _producer(
    coupling: Coupling, axis: str, member: Member, node: Node, readers: Mapping[str, list[Node]], norms: list[Node]
) -> tuple[Member, ...]:
    after = readers.get(node.name, [])
    affine = [m for part in ("weight", "bias") for m in _affine(coupling, axis, after[0], part)] if after else []
    if len(after) == 1 and after[0] in norms and affine:
        return tuple(affine)
    return (member, *_affine(coupling, axis, node, "bias"))


def _affine(coupling: Coupling, axis: str, node: Node, part: str) -> list[Member]:
    """Return the vector that an op takes as its weight or bias, where it lies on the axis."""
    graph = coupling.graph
    names = {graph.node(ref.node).tensor for ref in refs_in(node.args.get(part))}
    return [
        m
        for m in coupling.axes[axis].members
        if m.tensor in names and len(graph.tensors[m.tensor].shape) == 1 and graph.tensors[m.tensor].kind == "parameter"
    ]


def _norms_on(coupling: Coupling) -> dict[str, list[Node]]:
    norms: dict[str, list[Node]] = {axis: [] for axis in coupling.axes}
    for node in coupling.graph.nodes:
        if base_name(node.op) in CHANNEL_NORMS:
            for ref in refs_in(node.args.get("weight")):
                for expr in coupling.tensors.get(coupling.graph.node(ref.node).tensor, ()):
                    for axis in {coupling.axis_of[a] for a in atoms_of(expr) if a in coupling.axis_of}:
                        norms[axis].append(node)
    return norms


def _readers(graph: Graph) -> dict[str, list[Node]]:
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(ref.node for ref in refs_in(node.args)):
            readers.setdefault(name, []).append(node)
    return readers


def _users(coupling: Coupling, member: Member) -> list[Node]:
    """Return the ops that take a weight directly."""
    graph = coupling.graph
    sources = {node.name for node in graph.nodes if node.op == TENSOR and node.tensor == member.tensor}
    return [node for node in graph.nodes if any(ref.node in sources for ref in refs_in(node.args))]


def _parameters(coupling: Coupling, axis: str) -> tuple[Member, ...]:
    return tuple(m for m in coupling.axes[axis].members if coupling.graph.tensors[m.tensor].kind == "parameter")
