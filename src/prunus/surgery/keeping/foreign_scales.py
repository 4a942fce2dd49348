"""Floats that a kept forward must not compute anew: a scale 1/√D of another D makes another function."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunus.graph.ir import INPUT, TENSOR, Graph, Node
from prunus.graph.rules.context import base_name


def other_number(expected: Graph, found: Graph) -> Node | None:
    """Return the first op of ``found`` with a float that no op of its kind has in ``expected``; None if there is none.

    A kept forward may leave out or add ops that change nothing (``if repeats == 1: return x``); what it scales by, it
    scales by as before. The numbers of modules of `prunus.nn` are their own.
    """
    known = {(base_name(n.op), key, value) for n in expected.nodes for key, value in _floats(n)}
    for node in found.nodes:
        shipped = bool(found.calls) and found.calls[node.call].kind.startswith("prunus.nn.")
        if not shipped and any((base_name(node.op), key, value) not in known for key, value in _floats(node)):
            return node
    return None


def _floats(node: Node) -> Iterator[tuple[str, Any]]:
    if node.op not in (INPUT, TENSOR):
        yield from ((key, value) for key, value in node.args.items() if type(value) is float)
