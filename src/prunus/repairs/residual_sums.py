"""The sum behind a layer: what the other operand of a residual addition lost, asked of the branch's last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.graph.ir import Graph, Node, Ref, refs_in
from prunus.graph.rules.context import base_name
from prunus.repairs.paired_run import Lockstep

_THROUGH = frozenset(("dropout", "identity", "contiguous", "clone", "alias", "detach"))


@dataclass(frozen=True, slots=True)
class Tail:
    """From a layer, perhaps through a batch norm, to an addition whose other operand is there already.

    Attributes:
        other: the other operand, a value of the dense program and of the small one.
        norm: the batch norm on the way, "" where there is none.
    """

    other: Ref
    norm: str = ""


def find_tails(dense: Graph, small: Graph) -> dict[str, Tail]:
    """Return node name → its tail, for nodes whose result goes into one addition and nowhere else."""
    readers: dict[str, list[Node]] = {}
    place = {node.name: i for i, node in enumerate(dense.nodes)}
    for node in dense.nodes:
        for ref in refs_in(node.args):
            readers.setdefault(ref.node, []).append(node)
    shown = {ref.node for ref in refs_in(list(dense.outputs))}
    found = {}
    for node in dense.nodes:
        tail = _follow(node, readers, shown)
        if tail is not None and place[tail.other.node] < place[node.name] and _same_sum(tail, node, small):
            found[node.name] = tail
    return found


def _follow(node: Node, readers: dict[str, list[Node]], shown: set[str]) -> Tail | None:
    at, norm = node, ""
    while at.name not in shown and len(readers.get(at.name, ())) == 1:
        after = readers[at.name][0]
        name = base_name(after.op)
        if name == "add" and after.get("alpha", 1) == 1:
            operands = [after.get("self"), after.get("other")]
            others = [o for o in operands if isinstance(o, Ref) and o.node != at.name]
            return Tail(others[0], norm) if len(others) == 1 else None
        if name == "batch_norm" and not norm:
            norm = after.name
        elif name not in _THROUGH:
            return None
        at = after
    return None


def _same_sum(tail: Tail, node: Node, small: Graph) -> bool:
    """Whether the small program still has the branch and the other operand."""
    return all(small.find(name) is not None for name in (node.name, tail.other.node, tail.norm or node.name))


def lost(step: Lockstep, tail: Tail, like: Tensor) -> Tensor | None:
    """Return what the other operand lost, in units of the layer's own output; None where the shapes do not fit.

    z_dense − z_small, divided by the scale γ/√(v+ε) of a batch norm on the way.
    """
    missing: Tensor = step.target(tail.other) - step.small.value(tail.other)
    if missing.shape != like.shape:
        return None
    if not tail.norm:
        return missing
    node = step.pair.dense.node(tail.norm)
    variance = step.target(node.args["running_var"])
    scale: Tensor = (variance + float(node.args["eps"])).rsqrt()
    if node.get("weight") is not None:
        scale = scale * step.target(node.args["weight"])
    shape = [1, -1] + [1] * (like.dim() - 2)
    # A channel that the norm scales to nothing cannot carry anything.
    useful = scale.abs() > 1e-6
    inverse = torch.where(useful, 1 / torch.where(useful, scale, torch.ones_like(scale)), torch.zeros_like(scale))
    return missing * inverse.view(shape)
