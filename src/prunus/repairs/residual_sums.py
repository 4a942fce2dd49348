"""Residual sums: the last layer of a branch can compensate the error of the skip path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.graph.ir import Graph, Node, Ref, refs_in
from prunus.graph.rules.context import base_name
from prunus.repairs.paired_run import Lockstep

_THROUGH = frozenset(("dropout", "identity", "contiguous", "clone", "alias", "detach"))


@dataclass(frozen=True, slots=True)
class ResidualSum:
    """An addition after a layer, with at most a batch norm between them, whose other operand is computed earlier.

    Attributes:
        other: the other operand, a value of the dense program and of the small one.
        norm: the batch norm between them, "" where there is none.
    """

    other: Ref
    norm: str = ""


def find_residual_sums(dense: Graph, small: Graph) -> dict[str, ResidualSum]:
    """Return node name → its residual sum, for nodes whose result only one addition reads."""
    readers: dict[str, list[Node]] = {}
    position = {node.name: i for i, node in enumerate(dense.nodes)}
    for node in dense.nodes:
        for ref in refs_in(node.args):
            readers.setdefault(ref.node, []).append(node)
    outputs = {ref.node for ref in refs_in(list(dense.outputs))}
    residual_sums = {}
    for node in dense.nodes:
        residual_sum = _follow(node, readers, outputs)
        if (
            residual_sum is not None
            and position[residual_sum.other.node] < position[node.name]
            and _same_sum(residual_sum, node, small)
        ):
            residual_sums[node.name] = residual_sum
    return residual_sums


def _follow(node: Node, readers: dict[str, list[Node]], outputs: set[str]) -> ResidualSum | None:
    at, norm = node, ""
    while at.name not in outputs and len(readers.get(at.name, ())) == 1:
        after = readers[at.name][0]
        name = base_name(after.op)
        if name == "add" and after.get("alpha", 1) == 1:
            operands = [after.get("self"), after.get("other")]
            others = [o for o in operands if isinstance(o, Ref) and o.node != at.name]
            return ResidualSum(others[0], norm) if len(others) == 1 else None
        if name == "batch_norm" and not norm:
            norm = after.name
        elif name not in _THROUGH:
            return None
        at = after
    return None


def _same_sum(residual_sum: ResidualSum, node: Node, small: Graph) -> bool:
    """Return True if the small program still has the branch and the other operand."""
    return all(
        small.find(name) is not None for name in (node.name, residual_sum.other.node, residual_sum.norm or node.name)
    )


def skip_path_error(lockstep: Lockstep, residual_sum: ResidualSum, like: Tensor) -> Tensor | None:
    """Return the error of the other operand in units of the layer's own output; None where the shapes differ.

    z_dense − z_small, divided by the scale γ/√(v+ε) of a batch norm between layer and sum.
    """
    missing: Tensor = lockstep.target(residual_sum.other) - lockstep.small.value(residual_sum.other)
    if missing.shape != like.shape:
        return None
    if not residual_sum.norm:
        return missing
    node = lockstep.pair.dense.node(residual_sum.norm)
    variance = lockstep.target(node.args["running_var"])
    scale: Tensor = (variance + float(node.args["eps"])).rsqrt()
    if node.get("weight") is not None:
        scale = scale * lockstep.target(node.args["weight"])
    shape = [1, -1] + [1] * (like.dim() - 2)
    # A channel that the norm scales to zero cannot compensate anything.
    useful = scale.abs() > 1e-6
    inverse = torch.where(useful, 1 / torch.where(useful, scale, torch.ones_like(scale)), torch.zeros_like(scale))
    return missing * inverse.view(shape)
