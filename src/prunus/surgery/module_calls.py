"""The module calls of a graph, indexed: who owns which node, who calls whom, who computes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunus.graph.ir import INPUT, TENSOR, Graph, ModuleCall, Node, Ref, refs_in


@dataclass(frozen=True, slots=True)
class CallIndex:
    """What is asked again and again about one graph; made once.

    Attributes:
        children: call → the calls made from its forward.
        nodes: call → the ops that its own forward ran.
        names: the nodes that exist.
        live: the calls that matter, see `live_calls`.
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
    """Return a name of a module that lies at or below ``root``; None if it has none.

    A module that is registered in two places is recorded under its first name; its tensors tell the others.
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
    """Return a name of a tensor that lies below ``root``; None if it has none."""
    if is_below(name, root):
        return name
    return next((a for a, n in graph.aliases.items() if n == name and is_below(a, root)), None)


def is_below(path: str, root: str) -> bool:
    """Whether a module or tensor is ``root`` or lies in it."""
    return not root or path == root or path.startswith(f"{root}.")


def live_calls(graph: Graph) -> set[int]:
    """Return the calls that compute something live, or that hand their input on (dropout and drop-path in eval)."""
    live = _computing_calls(graph)
    return live | _handing_on(graph, live)


def handing_calls(graph: Graph) -> set[int]:
    """Return the calls that compute nothing and hand their input on: drop-path in eval, identities."""
    return _handing_on(graph, _computing_calls(graph))


def _computing_calls(graph: Graph) -> set[int]:
    live = {node.call for node in graph.nodes if node.op not in (INPUT, TENSOR)}
    for call in reversed(graph.calls):
        if call.index in live and call.parent >= 0:
            live.add(call.parent)
    return live


def _handing_on(graph: Graph, computing: set[int]) -> set[int]:
    names = {node.name for node in graph.nodes}
    found = set()
    for call in graph.calls:
        ins = {x for x in call.in_leaves if isinstance(x, Ref)}
        if call.index not in computing and any(
            isinstance(x, Ref) and x in ins and x.node in names for x in call.out_leaves
        ):
            found.add(call.index)
    return found


def parameter_free(graph: Graph) -> set[str]:
    """Return the nodes whose value follows from the inputs and constants alone: masks, positions."""
    free: set[str] = set()
    for node in graph.nodes:
        if node.op == TENSOR:
            if graph.tensors[node.tensor].kind != "parameter":
                free.add(node.name)
        elif all(r.node in free for r in refs_in(node.args)):
            free.add(node.name)
    return free
