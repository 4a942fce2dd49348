"""The most important path through a network, from an input to an output."""

from __future__ import annotations

from collections.abc import Mapping

from prunus.graph.ir import INPUT, Graph, refs_in


def key_path(graph: Graph, importance: Mapping[tuple[str, int], float]) -> tuple[tuple[str, int], ...]:
    """Return the path from an input to an output with the largest sum of gate importances.

    best(n) = max over readings i of n of best(source_i) + I(n, i), with I = 0 where there is no gate; input nodes
    start at 0, nodes that depend on no input are on no path. Among equal paths the earlier operand wins.

    Args:
        graph: a program in execution order.
        importance: (node, number of the reading) → importance, not negative.

    Returns:
        The edges of the path in order: (node, number of the reading).
    """
    best: dict[str, float] = {}
    previous: dict[str, tuple[int, str]] = {}
    for node in graph.nodes:
        if node.op == INPUT:
            best[node.name] = 0.0
            continue
        for i, ref in enumerate(refs_in(node.args)):
            if ref.node in best:
                value = best[ref.node] + importance.get((node.name, i), 0.0)
                if node.name not in best or value > best[node.name]:
                    best[node.name], previous[node.name] = value, (i, ref.node)
    ends = [ref.node for ref in refs_in(list(graph.outputs)) if ref.node in best]
    if not ends:
        return ()
    here = max(ends, key=lambda name: best[name])
    path: list[tuple[str, int]] = []
    while here in previous:
        i, source = previous[here]
        path.append((here, i))
        here = source
    return tuple(reversed(path))
