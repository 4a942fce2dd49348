"""Freezing for reasons outside any op: outputs, tensors that no op reads, table rows for longer inputs."""

from __future__ import annotations

from collections.abc import Mapping

from prunus.graph.ir import TENSOR, Ref, refs_in
from prunus.graph.layout import UNIT, Expr, atoms_of
from prunus.graph.open_outputs import is_state
from prunus.graph.rules.context import Dims, Flow, base_name
from prunus.graph.shared_memory import VIEWS
from prunus.graph.vocabulary import is_tokens

# Ops that select a part of a tensor and compute nothing.
_PARTS = VIEWS | {"index", "index_select"}


def freeze_outputs(flow: Flow, tokens: Expr | None) -> None:
    """Freeze the outputs of the network, except caches and a last dim that scores removable ``tokens``."""
    for leaf, state in zip(flow.graph.outputs, is_state(flow.graph.out_spec), strict=True):
        if not isinstance(leaf, Ref):
            continue
        flow.layout.node = leaf.node
        flow.ids.spoil(leaf, "output")
        *rest, last = [UNIT, *flow.values[leaf]]
        if state:
            continue
        for expr in rest if tokens is not None and is_tokens(flow, last, tokens) else (*rest, last):
            flow.freeze(expr, "output")


def freeze_unused(flow: Flow, tensors: Mapping[str, Dims]) -> None:
    """Freeze the tensors that no op reads."""
    used = {node.tensor for node in flow.graph.nodes if node.op == TENSOR}
    for name, dims in tensors.items():
        if name not in used:
            for expr in dims:
                flow.freeze(expr, "unused")


def freeze_unread(flow: Flow, tensors: Mapping[str, Dims]) -> None:
    """Freeze the rows that a table sliced to this example's length leaves unread: longer inputs need them."""
    parts: set[str] = set()
    read: set[int] = set()
    for node in flow.graph.nodes:
        if node.op == TENSOR:
            parts.add(node.name)
            continue
        refs = list(refs_in(node.args))
        if refs and refs[0].node in parts and base_name(node.op) in _PARTS:
            parts.add(node.name)
            refs = refs[1:]
        read.update(a for ref in refs for e in flow.values.get(ref, ()) for a in atoms_of(flow.norm(e)))
    for leaf in refs_in(list(flow.graph.outputs)):
        read.update(a for e in flow.values[leaf] for a in atoms_of(flow.norm(e)))
    for dims in tensors.values():
        for atom in {a for e in dims for a in atoms_of(flow.norm(e))} - read:
            flow.freeze(atom, "unread")
