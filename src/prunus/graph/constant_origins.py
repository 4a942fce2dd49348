"""Origins of folded constants: the nodes that computed them, and a program that computes them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from prunus.graph.ir import INPUT, TENSOR, Graph, Node, is_mutating, refs_in
from prunus.graph.shared_memory import storage_roots


def unfold(graph: Graph, names: Collection[str]) -> Graph:
    """Return the program with some folded constants computed again, at the place where the user's code does so.

    Args:
        graph: a program with ``recipes``.
        names: folded nodes to compute again; others stay constants.
    """
    present = {n.name for n in graph.nodes}
    again = {n.name for n in graph.recipes} & {n.name for n in graph.nodes if n.op == TENSOR and n.name in names}
    needed = ingredients(graph.recipes, again, present - again)
    waiting = [n for n in reversed(graph.recipes) if n.name in needed or n.name in present]
    shared = {n.name for n in waiting} & present
    nodes: list[Node] = []
    for node in graph.nodes:  # both are in execution order: shared nodes say where the recipes belong
        while node.name in shared and waiting:
            recipe = waiting.pop()
            if recipe.name not in present or recipe.name in again:
                nodes.append(recipe)
            if recipe.name == node.name:
                break
        if node.name not in again:
            nodes.append(node)
    removed = {n.tensor for n in graph.nodes if n.op == TENSOR} - {n.tensor for n in nodes if n.op == TENSOR}
    tensors = {name: info for name, info in graph.tensors.items() if name not in removed}
    constants = {name: value for name, value in graph.constants.items() if name not in removed}
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants, _by_name={})


def ingredients(nodes: Sequence[Node], names: Collection[str], fixed: Collection[str] = ()) -> set[str]:
    """Return the nodes from which ``names`` are computed, writes into their memory included.

    Values in ``fixed`` are available anyway, so the nodes that compute them are not needed.
    """
    roots = storage_roots(nodes)
    needed, before = set(names).difference(fixed), -1
    while before < len(needed):
        before = len(needed)
        memory = {roots[n] for n in needed if n in roots}
        for node in reversed(nodes):
            writes = node.op not in (INPUT, TENSOR) and is_mutating(node.op) and roots[node.name] in memory
            if node.name in needed or (writes and node.name not in fixed):
                needed.add(node.name)
                needed.update(r.node for r in refs_in(node.args) if r.node not in fixed)
    return needed
