"""Find the units on which no output depends for any input; removing them leaves the function unchanged."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from prunus.criteria.producers_consumers import unit_line
from prunus.errors import OutcomeError
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import run
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, is_mutating, refs_in
from prunus.graph.layout import atoms_of
from prunus.graph.rules.context import base_name
from prunus.surgery.zero_propagation import MARK, influence, shows_memory


def live_units(coupling: Coupling, tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Return axis id → mask of the units that some output may depend on.

    A position of a value is alive if it may differ from zero *and* may influence an output. Both follow from the zeros
    of the weights, for every input: marks run through the program once forward and once backward. A unit is dead if it
    is alive in no weight and in no activation. If too little is known about an op, its units count as alive. Units of
    an axis that an op averages over, or that an output contains, are never dead.

    Args:
        coupling: the analysis of the model.
        tensors: its parameters and buffers by name.

    Raises:
        OutcomeError: the program writes in place into a view that is read later, so marks cannot be followed.
    """
    graph = coupling.graph
    _refuse_hidden_writes(graph)
    values = {n: t.detach().cpu() for n, t in tensors.items() if n in graph.tensors} | dict(graph.constants)
    marks = {n: (v != 0).to(MARK) for n, v in values.items()}
    alive = {name: torch.zeros(axis.size, dtype=torch.float64) for name, axis in coupling.axes.items()}

    def observe(node: Node, result: Any) -> Any:
        many = isinstance(result, (list, tuple))
        marked = [_marked(coupling, alive, Ref(node.name, i), x) for i, x in enumerate(result if many else [result])]
        return marked if many else marked[0]

    with torch.enable_grad():
        inputs = [torch.ones(graph.node(name).shape, dtype=MARK) for name in graph.inputs]
        override = {n.name: functools.partial(_override, graph) for n in graph.nodes if n.op not in (INPUT, TENSOR)}
        output = run(graph, marks, inputs, override=override, observe=observe)
        ends = [x.sum() for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor) and x.requires_grad]
        if ends:
            torch.autograd.backward(ends)
    never_dead = _output_axes(coupling) | {name for name, axis in coupling.axes.items() if axis.statistic}
    return {a: np.ones(len(n), bool) if a in never_dead else (n > 0).numpy() for a, n in alive.items()}


def _override(graph: Graph, node: Node, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return influence(graph, node, function, args, kwargs)


class _Mark(torch.autograd.Function):
    """A map from non-negative numbers to marks, in the forward and in the backward, so that no path is rounded away."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).to(MARK).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return (grads[0] > 0).to(MARK)


def _marked(coupling: Coupling, alive: dict[str, torch.Tensor], ref: Ref, value: Any) -> Any:
    """Return the marks of a value; the backward adds its live positions to ``alive``."""
    if not isinstance(value, torch.Tensor):
        return value
    start = value if value.requires_grad else value.detach().requires_grad_(True)
    mark: torch.Tensor = _Mark.apply(start)  # type: ignore[no-untyped-call]
    nonzero = mark.detach() > 0

    def note(matters: torch.Tensor) -> None:
        living = (matters > 0) & nonzero
        for dim, expr in enumerate(coupling.values.get(ref, ())):
            names = {coupling.axis_of[atom] for atom in atoms_of(expr) if atom in coupling.axis_of}
            if not names:
                continue
            line = living.movedim(dim, 0).reshape(living.shape[dim], -1).any(1)
            for name in names:
                alive[name] += unit_line(coupling, coupling.axis(name), expr, line)

    mark.register_hook(note)  # type: ignore[no-untyped-call]
    return mark


def _output_axes(coupling: Coupling) -> set[str]:
    """Return the axes that are dims of an output, such as a state that follows the cut."""
    axes: set[str] = set()
    for ref in refs_in(list(coupling.graph.outputs)):
        for expr in coupling.values.get(ref, ()):
            axes |= {coupling.axis_of[atom] for atom in atoms_of(expr) if atom in coupling.axis_of}
    return axes


_MAY_SHARE = ("reshape", "flatten", "unflatten", "contiguous", "to", "type_as", "dropout", "feature_dropout")


def _refuse_hidden_writes(graph: Graph) -> None:
    """Raise an error if an op writes into memory that a later op reads under another name."""
    family: dict[str, str] = {}
    members: dict[str, list[tuple[int, str]]] = {}
    last_use: dict[str, int] = {ref.node: len(graph.nodes) for ref in refs_in(list(graph.outputs))}
    for position, node in reversed(list(enumerate(graph.nodes))):
        for ref in refs_in(node.args):
            last_use.setdefault(ref.node, position)
    for position, node in enumerate(graph.nodes):
        source = next(refs_in(node.args), None)
        own = node.name
        if source is not None and node.op not in (INPUT, TENSOR):
            writes = is_mutating(node.op)
            if writes or shows_memory(node.op) or base_name(node.op) in _MAY_SHARE:
                own = family[source.node]
            if writes and any(last_use.get(name, -1) > position for _, name in members[own]):
                raise OutcomeError(
                    f"shrink cannot follow {node.op} in {graph.where(node)}: it writes in place into a tensor that is "
                    "read later by another name. Write it without the trailing underscore."
                )
        family[node.name] = own
        members.setdefault(own, []).append((position, node.name))
