"""What folded constants were computed from, and how to have them computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from prunus.graph.ir import INPUT, TENSOR, Graph, Node, is_mutating, refs_in
from prunus.graph.shared_memory import storage_roots


def unfold(graph: Graph, names: Collection[str]) -> Graph:
    """Return the program in which some folded constants are computed again, where the user's code computes them.

    Args:
        graph: a program with ``recipes``.
        names: nodes that were folded; others stay constants.
    """
    present = {n.name for n in graph.nodes}
    again = {n.name for n in graph.recipes} & {n.name for n in graph.nodes if n.op == TENSOR and n.name in names}
    wanted = ingredients(graph.recipes, again, present - again)
    waiting = [n for n in reversed(graph.recipes) if n.name in wanted or n.name in present]
    shared = {n.name for n in waiting} & present
    nodes: list[Node] = []
    for node in graph.nodes:  # both are in execution order: what a node shares tells where the others belong
        while node.name in shared and waiting:
            recipe = waiting.pop()
            if recipe.name not in present or recipe.name in again:
                nodes.append(recipe)
            if recipe.name == node.name:
                break
        if node.name not in again:
            nodes.append(node)
    gone = {n.tensor for n in graph.nodes if n.op == TENSOR} - {n.tensor for n in nodes if n.op == TENSOR}
    tensors = {name: info for name, info in graph.tensors.items() if name not in gone}
    constants = {name: value for name, value in graph.constants.items() if name not in gone}
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors, constants=constants, _by_name={})


def ingredients(nodes: Sequence[Node], names: Collection[str], fixed: Collection[str] = ()) -> set[str]:
    """Return the nodes from which ``names`` are computed, writes into their memory included.

    Values in ``fixed`` are there in any case: what they are computed from is not needed.
    """
    roots = storage_roots(nodes)
    found, before = set(names).difference(fixed), -1
    while before < len(found):
        before = len(found)
        memory = {roots[n] for n in found if n in roots}
        for node in reversed(nodes):
            writes = node.op not in (INPUT, TENSOR) and is_mutating(node.op) and roots[node.name] in memory
            if node.name in found or (writes and node.name not in fixed):
                found.add(node.name)
                found.update(r.node for r in refs_in(node.args) if r.node not in fixed)
    return found


__all__ = ["ingredients", "unfold"]
