"""Put a bypassed branch back so that it contributes nothing: its last parameters are zero, the rest can learn again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prunus.errors import PlanError
from prunus.foundation.as_found import seeded
from prunus.graph.capture import capture, preserved, split_inputs
from prunus.graph.interpreter import flat_inputs, run
from prunus.graph.ir import TENSOR, Graph, Ref, refs_in
from prunus.graph.recorder import named_tensors
from prunus.plans import Drop, Plan, fingerprint
from prunus.tree.removal import Readers, operand_edges


def silence_(whole: nn.Module, plan: Plan, model: nn.Module, example_inputs: Any) -> None:
    """Give every bypassed branch its original values, then zero its last layers until the join receives zeros.

    Args:
        whole: the model to change, with the shapes of the original.
        plan: its ``drops`` name the branches.
        model: the original; untouched.
        example_inputs: one call. What reaches the join is looked at on it and on noise added to it.

    Raises:
        PlanError: a branch gives something else than zero even with all its own parameters at zero.
    """
    graph = capture(model, example_inputs)
    if fingerprint(graph) != plan.fingerprint:
        raise PlanError("The plan was made for another model or for inputs of another kind; give those of the plan.")
    readers, originals, own = Readers.of(graph), named_tensors(model), named_tensors(whole)
    edges = {drop: operand_edges(graph, drop.join)[drop.operand] for drop in plan.drops}
    with torch.no_grad(), preserved(whole):
        for name in readers.tensors(readers.gone(edges.values())):
            if name in own:
                own[name].copy_(originals[name])
        for drop, edge in edges.items():
            _silence_(drop, graph, readers.gone([edge]), own, example_inputs)


def _silence_(
    drop: Drop, graph: Graph, dead: frozenset[str], own: Mapping[str, torch.Tensor], example_inputs: Any
) -> None:
    operand = list(refs_in(graph.node(drop.join).args))[drop.operand]
    for layer in _layers(graph, dead):
        for name in layer:
            own[name].zero_()
        if _is_zero(graph, operand, own, example_inputs):
            return
    raise PlanError(
        f"The branch {drop.label!r} cannot be put back dead: it gives more than zeros even with every parameter of its "
        "own at zero. Use fill='original', or leave the branch out by keeping the cut model."
    )


def _layers(graph: Graph, dead: frozenset[str]) -> list[tuple[str, ...]]:
    """Return the parameters that only a branch reads, layer by layer, the last first."""
    tensors = {n.name: n.tensor for n in graph.nodes if n.op == TENSOR}
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for ref in refs_in(node.args):
            if ref.node in tensors:
                readers.setdefault(tensors[ref.node], set()).add(node.name)
    layers = []
    for node in reversed(graph.nodes):
        names = tuple(
            dict.fromkeys(
                tensors[r.node]
                for r in refs_in(node.args)
                if r.node in tensors and graph.tensors[tensors[r.node]].kind == "parameter"
            )
        )
        if node.name in dead and names and all(readers[n] <= dead for n in names):
            layers.append(names)
    return layers


def _is_zero(graph: Graph, operand: Ref, own: Mapping[str, torch.Tensor], example_inputs: Any) -> bool:
    tensors = {n: own[n].detach() for n in graph.tensors if n in own} | dict(graph.constants)
    args, kwargs = split_inputs(example_inputs)
    found: list[bool] = []

    def look(node: Any, result: Any) -> None:
        if node.name == operand.node:
            value = result[operand.index] if isinstance(result, (tuple, list)) else result
            found.append(not bool(value.any()))

    with seeded(0):
        for scale in (0.0, 1.0):  # the example may happen to leave a branch at zero
            inputs = [_moved(t.detach(), scale) for t in flat_inputs(graph, args, kwargs)]
            run(graph, tensors, inputs, observe=look)
    return bool(found) and all(found)


def _moved(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    return tensor + scale * torch.randn_like(tensor) if tensor.is_floating_point() else tensor.clone()
