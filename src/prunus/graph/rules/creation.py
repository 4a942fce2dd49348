"""Tensors made from literals: every dim starts as a fresh axis and the literal follows it."""

from __future__ import annotations

from prunus.foundation.registry import words
from prunus.graph.ir import Node
from prunus.graph.rules.context import Dims, Flow, rule


@rule(
    *words("zeros ones full empty rand randn randint new_zeros new_ones new_full new_empty scalar_tensor empty_strided")
)
def literal_sized(flow: Flow, node: Node) -> list[Dims]:
    """A literal size counts whatever axis its dim turns out to be."""
    return [tuple(flow.fresh(s) for s in node.shape)]


@rule(
    *words(
        "arange linspace logspace eye range hann_window tril_indices triu_indices randperm kaiser_window hamming_window"
    )
)
def positions(flow: Flow, node: Node) -> list[Dims]:
    """Values depend on position; where they reach no input they are folded to a constant before."""
    return [tuple(flow.fresh(s, "index") for s in node.shape)]
