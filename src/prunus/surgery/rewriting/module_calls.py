"""Module calls of a graph: an index of callers and nodes, and the calls that a cut makes stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref, refs_in


@dataclass(frozen=True, slots=True)
class CallIndex:
    """An index of one graph, made once and used many times.

    Attributes:
        children: call → the calls made from its forward.
        nodes: call → the ops that its own forward ran.
        names: the names of all nodes.
        live: the calls that `live_calls` returns.
    """

    children: Mapping[int, Sequence[ModuleCall]]
    nodes: Mapping[int, Sequence[Node]]
    names: frozenset[str]
    live: frozenset[int]

    @classmethod
    def of(cls, graph: Graph) -> CallIndex:
        """Index a graph."""
        children: dict[int, list[ModuleCall]] = {}
        for call in graph.calls:
            children.setdefault(call.parent, []).append(call)
        nodes: dict[int, list[Node]] = {}
        for node in graph.nodes:
            if node.op not in (INPUT, TENSOR):
                nodes.setdefault(node.call, []).append(node)
        return cls(children, nodes, frozenset(n.name for n in graph.nodes), frozenset(live_calls(graph)))


def module_below(graph: Graph, path: str, root: str) -> str | None:
    """Return a name of a module at or below ``root``; None if it has no such name.

    A module that is registered twice is recorded under its first name; the aliases of its tensors show the others.
    """
    if is_below(path, root):
        return path
    own = {name.removeprefix(f"{path}."): name for name in graph.tensors if name.startswith(f"{path}.")}
    for alias, name in graph.aliases.items():
        rest = name.removeprefix(f"{path}.")
        if rest not in own or not alias.endswith(f".{rest}") or not is_below(alias, root):
            continue
        other = alias.removesuffix(f".{rest}")
        same = graph.modules.get(other) == graph.modules.get(path)
        if same and is_below(other, root) and all(graph.aliases.get(f"{other}.{r}") == n for r, n in own.items()):
            return other
    return None


def tensor_below(graph: Graph, name: str, root: str) -> str | None:
    """Return a name of a tensor below ``root``; None if it has no such name."""
    if is_below(name, root):
        return name
    return next((a for a, n in graph.aliases.items() if n == name and is_below(a, root)), None)


def is_below(path: str, root: str) -> bool:
    """Return True if a module or tensor is ``root`` or lies in it."""
    return not root or path == root or path.startswith(f"{root}.")


def live_calls(graph: Graph) -> set[int]:
    """Return the calls that run an op, or that pass their input on (dropout and drop-path in eval)."""
    live = _computing_calls(graph)
    return live | _passing_calls(graph, live)


def passing_calls(graph: Graph) -> set[int]:
    """Return the calls that compute nothing and pass their input on: drop-path in eval, identities."""
    return _passing_calls(graph, _computing_calls(graph))


def _computing_calls(graph: Graph) -> set[int]:
    live = {node.call for node in graph.nodes if node.op not in (INPUT, TENSOR)}
    for call in reversed(graph.calls):
        if call.index in live and call.parent >= 0:
            live.add(call.parent)
    return live


def _passing_calls(graph: Graph, computing: set[int]) -> set[int]:
    names = {node.name for node in graph.nodes}
    passing = set()
    for call in graph.calls:
        ins = {x for x in call.in_leaves if isinstance(x, Ref)}
        if call.index not in computing and any(
            isinstance(x, Ref) and x in ins and x.node in names for x in call.out_leaves
        ):
            passing.add(call.index)
    return passing


def parameter_free(graph: Graph) -> set[str]:
    """Return the nodes whose value depends on no parameter, only on inputs and constants: masks, positions."""
    free: set[str] = set()
    for node in graph.nodes:
        if node.op == TENSOR:
            if graph.tensors[node.tensor].kind != "parameter":
                free.add(node.name)
        elif all(r.node in free for r in refs_in(node.args)):
            free.add(node.name)
    return free


def stale_candidates(before: Graph, after: Graph) -> tuple[set[int], set[int]]:
    """Return (calls that may be stale after a cut, calls that surely are).

    A call may be stale if a literal of a node in its own forward changed, or a constant that it makes or reads. A call
    is surely stale if it joins a bypassed branch, or calls something that nothing needs any more.
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
    """Return the calls that are still live and directly own a removed op, or directly call a removed module."""
    alive = live_calls(after)
    names = {n.name for n in after.nodes}
    callers: set[int] = set()
    for node in before.nodes:
        if node.op in (INPUT, TENSOR) or node.name in names:
            continue
        index = node.call
        while index >= 0 and index not in alive:
            index = before.calls[index].parent
        if index >= 0:
            callers.add(index)
    return callers
