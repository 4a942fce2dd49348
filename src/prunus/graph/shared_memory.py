"""Values that may share memory: views, and results of in-place ops with the argument that they write into."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.graph.ir import INPUT, TENSOR, Node, is_mutating, refs_in

_VIEW_NAMES = """
view reshape flatten unflatten permute transpose t select slice narrow unsqueeze squeeze expand expand_as chunk
split split_with_sizes unbind alias detach contiguous to movedim swapaxes swapdims diagonal unfold view_as real imag
numpy_T mT dropout tensor_split reshape_as _unsafe_view as_strided type_as float double half lift_fresh
"""
VIEWS = frozenset(_VIEW_NAMES.split())


def storage_roots(nodes: Sequence[Node]) -> dict[str, str]:
    """Map each node to the node whose memory it may share: views and in-place ops share with their first argument."""
    roots: dict[str, str] = {}
    for node in nodes:
        roots[node.name] = node.name
        if node.op in (INPUT, TENSOR):
            continue
        name = node.op.split(".")[1]
        first = next(refs_in(node.args), None)
        if first is not None and (name in VIEWS or is_mutating(node.op)):
            roots[node.name] = roots.get(first.node, first.node)
    return roots
