"""Rules of tensors made from literals: every dim is a fresh axis, and a cut adapts the literal."""

from __future__ import annotations

from prunus.foundation.registry import words
from prunus.graph.ir import Node
from prunus.graph.rules.context import Dims, Flow, rule


@rule(
    *words("zeros ones full empty rand randn randint new_zeros new_ones new_full new_empty scalar_tensor empty_strided")
)
def literal_sized(flow: Flow, node: Node) -> list[Dims]:
    """Return fresh dims; a literal size counts the axis with which its dim is unified later."""
    return [tuple(flow.fresh(s) for s in node.shape)]


@rule(
    *words(
        "arange linspace logspace eye range hann_window tril_indices triu_indices randperm kaiser_window hamming_window"
    )
)
def positions(flow: Flow, node: Node) -> list[Dims]:
    """Return frozen dims, because values depend on position; without an input such nodes were folded before."""
    return [tuple(flow.fresh(s, "index") for s in node.shape)]
