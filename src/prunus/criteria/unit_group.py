"""One removable axis for criteria of users: its units, and every parameter on it as a matrix with one row a unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.criteria.producers_consumers import find_places, unit_rows
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling


@dataclass(frozen=True, slots=True)
class Group:
    """One removable axis with the parameters of its units.

    Row u of every matrix holds all elements of that parameter that belong to unit u. Matrices are copies, in float64 on
    the CPU. A parameter that produces the axis and reads it too, such as a recurrent weight, has a matrix in both.

    Attributes:
        id: axis id, such as ``layer1.0.conv1:out``.
        size: number of units U.
        producers: name → (U, rest), the weights whose product is the units' output.
        readers: name → (U, rest), the weights that are multiplied with the units' output.
        others: name → (U, rest), the other parameters of the units: biases, scales and shifts of norms.
        modules: paths of the modules that own these parameters, in the order of the network.

    Shapes: conv weight (U, I, K, K) as producer → (U, I·K·K); as reader (O, U, K, K) → (U, O·K·K).
    """

    id: str
    size: int
    producers: Mapping[str, Tensor]
    readers: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    modules: tuple[str, ...]

    @property
    def weights(self) -> dict[str, Tensor]:
        """All parameters of the units: name → (U, rest); a parameter in several roles has one joint matrix."""
        found: dict[str, list[Tensor]] = {}
        for part in (self.producers, self.others, self.readers):
            for name, matrix in part.items():
                found.setdefault(name, []).append(matrix)
        return {name: torch.cat(matrices, 1) for name, matrices in found.items()}


def groups_of(coupling: Coupling, weights: Mapping[str, Tensor]) -> Iterator[Group]:
    """Yield the group of every removable axis, one at a time: each holds a copy of its weights.

    Args:
        coupling: the axes.
        weights: parameter name → value; parameters that it lacks are left out.
    """
    places = find_places(coupling)
    for name, axis in coupling.axes.items():
        produced = {(m.tensor, m.dim) for m in places.writes[name]}
        read = {(m.tensor, m.dim) for edge in places.edges[name] for m in edge.weights}
        yield _group(coupling, axis, weights, produced, read)


def _group(
    coupling: Coupling,
    axis: Axis,
    weights: Mapping[str, Tensor],
    produced: set[tuple[str, int]],
    read: set[tuple[str, int]],
) -> Group:
    matrices: tuple[dict[str, list[Tensor]], ...] = ({}, {}, {})
    for member in axis.members:
        if member.tensor not in weights or coupling.graph.tensors[member.tensor].kind != "parameter":
            continue
        place = (member.tensor, member.dim)
        part = matrices[0 if place in produced else 1 if place in read else 2]
        rows = unit_rows(coupling, axis, member, weights[member.tensor])
        part.setdefault(member.tensor, []).extend(rows)
    producers, readers, others = ({n: torch.cat(rows, 1) for n, rows in part.items()} for part in matrices)
    owners = dict.fromkeys(m.tensor.rpartition(".")[0] for m in axis.members if m.tensor in weights)
    return Group(axis.id, axis.size, producers, readers, others, tuple(owners))
