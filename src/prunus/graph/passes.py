"""Clean-up before coupling: nodes that depend on no input are folded, unused nodes are dropped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch

from prunus.foundation.registry import words
from prunus.graph.constant_origins import ingredients
from prunus.graph.interpreter import call_arguments, resolve
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, TensorInfo, is_mutating, map_refs, refs_in
from prunus.graph.shared_memory import storage_roots

_GENERATORS = ("arange", "linspace", "logspace", "eye", "range", "tril_indices", "triu_indices", "hann_window")
_LARGEST = 1 << 24  # elements
_RANDOM = words(
    "rand randn randint randperm bernoulli dropout normal_ uniform_ bernoulli_ rand_like randn_like multinomial "
    "native_dropout exponential_"
)


def fold_constants(graph: Graph) -> Graph:
    """Evaluate subgraphs that contain a position generator and depend on no input and no parameter.

    ``zeros`` and ``ones`` alone stay: their sizes are literals that must follow a cut.
    """
    foldable: set[str] = set()
    positional: set[str] = set()
    touched = _touched(graph)
    for node in graph.nodes:
        if node.op == INPUT:
            continue
        if node.op == TENSOR:
            if graph.tensors[node.tensor].kind == "constant":
                foldable.add(node.name)
            continue
        name = node.op.split(".")[1]
        refs = [r.node for r in refs_in(node.args)]
        if name in _RANDOM or node.name in touched or not all(r in foldable for r in refs) or _is_huge(node):
            continue
        foldable.add(node.name)
        if name in _GENERATORS or any(r in positional for r in refs):
            positional.add(node.name)
    frontier = _frontier(graph, foldable, positional)
    return _replace(graph, foldable, frontier) if frontier else graph


def _is_huge(node: Node) -> bool:
    """Tell whether a value is too large to be kept with the model; such a value is computed in every call."""
    return any(math.prod(meta.shape) > _LARGEST for meta in node.outputs if meta is not None)


def _touched(graph: Graph) -> set[str]:
    """Return the nodes aliased by an in-place write that involves a value that is not constant: never folded."""
    written: list[str] = []
    constant: set[str] = set()
    for node in graph.nodes:
        refs = [r.node for r in refs_in(node.args)]
        is_constant = node.op != INPUT and all(r in constant for r in refs)
        if node.op == TENSOR:
            is_constant = graph.tensors[node.tensor].kind == "constant"
        if is_constant:
            constant.add(node.name)
        elif is_mutating(node.op):
            written.append(refs[0])
    return _reached_by_first_arguments(graph, written)


def _reached_by_first_arguments(graph: Graph, names: list[str]) -> set[str]:
    """Return the nodes connected to any of ``names`` by first-argument edges: views share memory only along these."""
    if not names:
        return set()
    neighbours: dict[str, list[str]] = {}
    for node in graph.nodes:
        first = next(refs_in(node.args), None)
        if first is not None:
            neighbours.setdefault(node.name, []).append(first.node)
            neighbours.setdefault(first.node, []).append(node.name)
    seen, todo = set(), list(names)
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(neighbours.get(current, ()))
    return seen


def _frontier(graph: Graph, foldable: set[str], positional: set[str]) -> set[str]:
    used: set[str] = {r.node for r in refs_in(list(graph.outputs))}
    for node in graph.nodes:
        if node.name not in foldable:
            used.update(r.node for r in refs_in(node.args))
    return {n.name for n in graph.nodes if n.name in positional and n.name in used and not n.multi}


def _replace(graph: Graph, foldable: set[str], frontier: set[str]) -> Graph:
    values: dict[str, Any] = {}
    nodes: list[Node] = []
    constants, tensors = dict(graph.constants), dict(graph.tensors)
    taken = {name.rpartition(".")[2] for name in (*graph.tensors, *graph.aliases)}
    with torch.no_grad():
        for node in graph.nodes:
            if node.name in foldable:
                values[node.name] = _evaluate(graph, node, values)
            if node.name not in frontier:
                nodes.append(node)
                continue
            value = values[node.name].clone()
            name = f"_constant_{node.name}"
            while name in taken:  # by a module that was rewritten earlier
                name += "_"
            constants[name] = value
            tensors[name] = TensorInfo(name, "constant", tuple(value.shape), value.dtype, False)
            nodes.append(dataclasses.replace(node, op=TENSOR, args={}, tensor=name))
    constant = [n for n in graph.nodes if n.name in foldable]
    needed = ingredients(constant, frontier)
    recipes = tuple(n for n in constant if n.name in needed)
    return dataclasses.replace(
        graph, nodes=tuple(nodes), constants=constants, tensors=tensors, recipes=recipes, _by_name={}
    )


def _evaluate(graph: Graph, node: Node, values: dict[str, Any]) -> Any:
    if node.op == TENSOR:
        return graph.constants[node.tensor].clone()

    def fetch(ref: Ref) -> Any:
        value = values[ref.node]
        return value[ref.index] if isinstance(value, (tuple, list)) else value

    args, kwargs = call_arguments(node, {k: map_refs(v, fetch) for k, v in node.args.items()})
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    return resolve(node.op)(*args, **kwargs)


def drop_dead(graph: Graph, also: Iterable[str] = ()) -> Graph:
    """Remove nodes that no output needs, also in-place writes to unread values; inputs and ``also`` stay."""
    roots = storage_roots(graph.nodes)
    live: set[str] = {r.node for r in refs_in(list(graph.outputs))} | set(also)
    live_roots = {roots[name] for name in live}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        writes = node.op not in (INPUT, TENSOR) and is_mutating(node.op)
        if node.name in live or node.op == INPUT or (writes and roots[node.name] in live_roots):
            kept.append(node)
            used = {r.node for r in refs_in(node.args)}
            live |= used
            live_roots |= {roots[name] for name in used}
    kept.reverse()
    return dataclasses.replace(graph, nodes=tuple(kept), _by_name={})
