"""Units behind the end of a slice that nothing else reads; without them, ``x[..., :6]`` returns the kept units."""

from __future__ import annotations

from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Node, Ref, refs_in
from prunus.graph.layout import Sum, atoms_of
from prunus.graph.rules.context import base_name, positive

_SLICES = frozenset({"slice", "slice_copy"})


def cut_off(coupling: Coupling, node: Node, key: str) -> frozenset[int]:
    """Return the atoms behind the end of a slice that starts at zero if all of them are unread, else none."""
    if base_name(node.op) not in _SLICES or key != "end" or node.get("start") or node.get("step", 1) != 1:
        return frozenset()
    dims = coupling.values.get(node.args["self"])
    if dims is None:  # the sliced table is a folded constant
        return frozenset()
    expr = dims[positive(node.args["dim"], len(dims))]
    if not isinstance(expr, Sum):
        return frozenset()
    taken, behind = 0, set[int]()
    for term in expr.terms:
        if taken >= node.args["end"]:
            if not isinstance(term, int) or term not in coupling.axis_of:
                return frozenset()
            behind.add(term)
        taken += coupling.size(term)
    unread = all(coupling.axes[coupling.axis_of[a]].least == 1 and _is_unread(coupling, a) for a in behind)
    return frozenset(behind) if unread else frozenset()


def _is_unread(coupling: Coupling, atom: int) -> bool:
    """Return True if every op that reads the atom passes it on or slices it away, and no output contains it."""
    holders = {ref for ref, dims in coupling.values.items() if any(atom in atoms_of(e) for e in dims)}
    if any(leaf in holders for leaf in coupling.graph.outputs if isinstance(leaf, Ref)):
        return False
    for node in coupling.graph.nodes:
        if node.op in (INPUT, TENSOR) or not any(r in holders for r in refs_in(node.args)):
            continue
        passes_on = all(Ref(node.name, i) in holders for i, m in enumerate(node.outputs) if m is not None)
        if not passes_on and base_name(node.op) not in _SLICES:
            return False
    return not coupling.axes[coupling.axis_of[atom]].statistic
