"""Which module calls may hold a size, or a branch, that a cut makes stale."""

from __future__ import annotations

from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, refs_in
from prunus.surgery.module_calls import live_calls


def stale_candidates(before: Graph, after: Graph) -> tuple[set[int], set[int]]:
    """Return (calls that may be stale, calls that surely are).

    May be: a literal of a node in their own forward changed, or a constant they make or read. Surely: a branch they
    join is bypassed, or they call something that nothing needs any more.
    """
    maybe: set[int] = set()
    sure: set[int] = set()
    cut_constants = {n for n, i in after.tensors.items() if i.kind == "constant" and i.shape != before.tensors[n].shape}
    cut_constants |= {n for n in after.constants if after.constants[n] is not before.constants[n]}
    for node in after.nodes:
        if node.op == TENSOR and node.tensor in cut_constants:
            maybe.add(node.call)
        if node.op in (INPUT, TENSOR):
            continue
        old = before.node(node.name)
        if list(refs_in(node.args)) != list(refs_in(old.args)):
            sure.add(node.call)
        if _literals(node.args) != _literals(old.args) or _reads(after, node, cut_constants):
            maybe.add(node.call)
    sure |= _callers_of_dead(before, after)
    return maybe | sure, sure


def _literals(value: object) -> object:
    if isinstance(value, Ref):
        return None
    if isinstance(value, (list, tuple)):
        return [_literals(v) for v in value]
    if hasattr(value, "items"):
        return {k: _literals(v) for k, v in value.items()}
    return value


def _reads(graph: Graph, node: Node, tensors: set[str]) -> bool:
    return bool(tensors) and any(graph.node(r.node).tensor in tensors for r in refs_in(node.args))


def _callers_of_dead(before: Graph, after: Graph) -> set[int]:
    """Calls still alive that directly own a vanished op, or directly call something that vanished altogether."""
    alive = live_calls(after)
    names = {n.name for n in after.nodes}
    found: set[int] = set()
    for node in before.nodes:
        if node.op in (INPUT, TENSOR) or node.name in names:
            continue
        index = node.call
        while index >= 0 and index not in alive:
            index = before.calls[index].parent
        if index >= 0:
            found.add(index)
    return found
