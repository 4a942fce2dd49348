"""Second moments of the values that consumers read: the norm of every input, and the covariance of units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunus.criteria.probes import Calibration, Statistics, probe
from prunus.criteria.producers_consumers import Edge, dim_sums, find_places
from prunus.criteria.unit_sums import check_statistics
from prunus.criteria.wanda import edge_key
from prunus.data.calibration import evaluating, inputs_of
from prunus.data.programs import Programs
from prunus.graph.axis import Axis
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import run
from prunus.graph.ir import Node, Ref
from prunus.graph.layout import atoms_of

Visit = Callable[[Coupling, Mapping[str, tuple[Edge, ...]], Ref, Tensor], None]


@probe("inputs", ("input_norm",))
def _input_norms(calibration: Calibration) -> Statistics:
    """Measure √E[x²] for each position of each dim in which an op reads an axis."""
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def visit(coupling: Coupling, edges: Mapping[str, tuple[Edge, ...]], ref: Ref, value: Tensor) -> None:
        seen: set[str] = set()
        for name, ends in edges.items():
            for edge in (end for end in ends if end.ref == ref):
                for dim, expr in enumerate(coupling.values[ref]):
                    key = edge_key(edge, dim)
                    if coupling.axes[name].atom in atoms_of(expr) and key not in seen:
                        seen.add(key)
                        squares[key] = squares.get(key, 0.0) + dim_sums(value.square(), dim).cpu()
                        counts[key] = counts.get(key, 0) + value.numel() // value.shape[dim]

    _walk(calibration, visit)
    norms = {key: (total / max(1, counts[key])).sqrt() for key, total in squares.items()}
    check_statistics(norms)
    return {"input_norm": norms}


@probe("moments", ("covariance",))
def _covariances(calibration: Calibration) -> Statistics:
    """Measure, per axis, the covariance of its units over samples and positions, added up over the values read."""
    axes = calibration.coupling.axes
    sums: dict[tuple[str, str], tuple[Tensor, Tensor, int]] = {}

    def visit(coupling: Coupling, edges: Mapping[str, tuple[Edge, ...]], ref: Ref, value: Tensor) -> None:
        for name, ends in edges.items():
            if any(end.ref == ref for end in ends):
                rows = _unit_lines(coupling, coupling.axes[name], ref, value)
                size = len(rows)
                old = sums.get((name, ref.node), (torch.zeros(size, size).double(), torch.zeros(size).double(), 0))
                sums[name, ref.node] = (old[0] + rows @ rows.T, old[1] + rows.sum(1), old[2] + rows.shape[1])

    _walk(calibration, visit)
    covariances = {name: torch.zeros(axis.size, axis.size, dtype=torch.float64) for name, axis in axes.items()}
    for (name, _), (products, total, count) in sums.items():
        mean = total / max(1, count)
        covariances[name] += products / max(1, count) - torch.outer(mean, mean)
    check_statistics(covariances)
    return {"covariance": covariances}


def _walk(calibration: Calibration, visit: Visit) -> None:
    programs = Programs(calibration.model, calibration.coupling)
    edges: dict[int, Mapping[str, tuple[Edge, ...]]] = {}
    with evaluating(programs.model), torch.no_grad():
        for inputs, _ in inputs_of(calibration.batches, programs.device):
            coupling, flat = programs.of(inputs)
            if id(coupling) not in edges:
                edges[id(coupling)] = find_places(coupling).edges
            here = edges[id(coupling)]
            refs: dict[str, set[Ref]] = {}
            for ref in {end.ref for ends in here.values() for end in ends}:
                refs.setdefault(ref.node, set()).add(ref)

            def observe(
                node: Node, result: Any, coupling: Coupling = coupling, here: Any = here, refs: Any = refs
            ) -> None:
                for ref in sorted(refs.get(node.name, ()), key=lambda r: r.index):
                    value = result[ref.index] if isinstance(result, (tuple, list)) else result
                    visit(coupling, here, ref, value)

            run(coupling.graph, programs.tensors, flat, observe=observe)


def _unit_lines(coupling: Coupling, axis: Axis, ref: Ref, value: Tensor) -> Tensor:
    """Return all elements of a value that belong to each unit. Shapes: → (units, numbers), float64 on the CPU."""
    rows = []
    for dim, expr in enumerate(coupling.values[ref]):
        if axis.atom in atoms_of(expr):
            lines = value.movedim(dim, 0).flatten(1).to(device="cpu", dtype=torch.float64)
            for where in coupling.positions(expr, axis):
                unit = torch.from_numpy(where)
                order = torch.argsort(unit, stable=True)[int((unit < 0).sum()) :]
                rows.append(lines[order].reshape(axis.size, -1))
    return torch.cat(rows, 1)
