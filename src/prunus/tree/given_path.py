"""A key path that is given by names: the check that it is a path, and the branches that lie on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunus.errors import OptionError, nearest
from prunus.graph.ir import Graph, refs_in
from prunus.tree.branches import Branch


def on_path(graph: Graph, branches: Sequence[Branch], names: Sequence[str]) -> frozenset[str]:
    """Return the ids of the branches on a path that is given by the names of modules or branches, in order.

    A branch is on the path if a name is its id or holds it, or if a node of the branch runs inside a name.

    Raises:
        OptionError: no list of names, a name that is not there, or a gap: nothing leads from one name to the next.
    """
    known = {*graph.modules, *(b.id for b in branches)} - {""}
    for name in names:
        if name not in known:
            raise OptionError(
                f"key_path names {name!r}, which is no module or branch of this model.{nearest(name, known)} Allowed: "
                "paths of modules in the order in which data pass them."
            )
    ids = {branch.id: branch for branch in branches}
    places = [_nodes(graph, ids, name) for name in names]
    for before, after, one, other in zip(names, names[1:], places, places[1:], strict=False):
        if other.isdisjoint(_reached(graph, one)):
            raise OptionError(
                f"key_path has a gap: nothing leads from {before!r} to {after!r}. Name the modules in the order in "
                "which data pass them."
            )
    return frozenset(b.id for b in branches if any(_related(b, name, graph) for name in names))


def _nodes(graph: Graph, branches: dict[str, Branch], name: str) -> frozenset[str]:
    """Return the nodes that run inside a module, or that a branch holds."""
    inside = {node.name for node in graph.nodes if _within(graph.module_of(node), name)}
    return frozenset(inside or (branches[name].nodes if name in branches else ()))


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _related(branch: Branch, name: str, graph: Graph) -> bool:
    # A residual branch bears the name of its block, so a name inside its id may be that of the branch beside it.
    if _within(branch.id, name):
        return True
    return any(_within(graph.module_of(graph.node(node)), name) for node in branch.nodes)


def _reached(graph: Graph, start: Iterable[str]) -> set[str]:
    """Return the nodes that read a value of some nodes, directly or through others, without these nodes."""
    first, reached = set(start), set[str]()
    for node in graph.nodes:
        if any(ref.node in first or ref.node in reached for ref in refs_in(node.args)):
            reached.add(node.name)
    return reached


def above_gradient(slopes: Sequence[tuple[str, float]], threshold: float, decay: float) -> frozenset[str]:
    """Return the names on the key path by gradient: |g| > τ, in order; each that is taken lowers τ to ``decay`` · τ."""
    taken = set[str]()
    for name, slope in slopes:
        if slope > threshold:
            taken.add(name)
            threshold *= decay
    return frozenset(taken)


def check_divides(slopes: Sequence[tuple[str, float]], stay: frozenset[str], given: str) -> None:
    """Refuse a threshold on gradients that leaves no branch on the key path, or none beside it.

    Args:
        slopes: the name and |g| of every branch.
        stay: the branches on the path.
        given: the option and its value, for the message.

    Raises:
        OptionError: it does; the message gives a useful value.
    """
    values = [slope for _, slope in slopes]
    if values and len(stay) in (0, len(values)):
        what = "nothing is on the key path" if not stay else "every branch is on the key path"
        useful = f"less than {max(values):.3g}" if not stay else f"{min(values):.3g} or more"
        raise OptionError(
            f"{given}: of {len(values)} branches {len(stay)} have |g| above it, so {what}. Give {useful}."
        )
