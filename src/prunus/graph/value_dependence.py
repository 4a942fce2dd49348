"""Tests whether a program recorded from real tensors depends on their values, and so fits the example alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.capture import capture, split_inputs
from prunus.graph.interpreter import resolve
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, is_mutating, refs_in

# The result has the shape of the first argument, whatever the length of the others.
_FIXED_BY_FIRST = ("index_add", "index_copy", "index_put", "scatter", "scatter_add", "scatter_reduce", "masked_scatter")
_UNTAGGED = ("nonzero_numpy", "nms")
_MASKS = (torch.bool, torch.uint8)


def what_depends_on_values(model: nn.Module, example_inputs: Any, graph: Graph) -> str:
    """Return a text that names a part of the program that depends on input values; empty where none was found.

    A program recorded without values cannot depend on them. For a program recorded from real tensors, the sizes of the
    outputs are checked first; then the program is compared with a second one, recorded from noisier inputs.
    """
    if "real" not in graph.how:
        return ""
    return _sized_by_values(graph) or _changed_by_noise(model, example_inputs, graph)


def _sized_by_values(graph: Graph) -> str:
    """Return a text that names an op whose values decide the size of an output: a mask, a selection of boxes."""
    origin: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op in (INPUT, TENSOR):
            continue
        name = node.op.split(".")[1]
        refs = [r.node for r in refs_in(node.args)]
        if _is_ragged(graph, node, name):
            origin[node.name] = node
        elif is_mutating(node.op) or name in _FIXED_BY_FIRST:
            refs = refs[:1]
        ragged = next((origin[r] for r in refs if r in origin), None)
        if ragged is not None:
            origin.setdefault(node.name, ragged)
    for leaf in graph.outputs:
        if isinstance(leaf, Ref) and leaf.node in origin:
            node = origin[leaf.node]
            return f"the size of an output depends on values: {node.op} ({graph.where(node)})"
    return ""


def _is_ragged(graph: Graph, node: Node, name: str) -> bool:
    if name == "index":
        return any(_dtype(graph, r) in _MASKS for r in refs_in(node.args["indices"]))
    if name == "where":
        return node.op == "aten.where.default"
    return name in _UNTAGGED or torch.Tag.dynamic_output_shape in resolve(node.op).tags


def _dtype(graph: Graph, ref: Ref) -> torch.dtype | None:
    meta = graph.node(ref.node).outputs[ref.index]
    return None if meta is None else meta.dtype


def _changed_by_noise(model: nn.Module, example_inputs: Any, graph: Graph) -> str:
    generator = torch.Generator().manual_seed(0)

    def moved(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point():
            return x
        noise = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
        return x + noise * (x.std() if x.numel() > 1 else 1.0)

    args, kwargs = pytree.tree_map_only(torch.Tensor, moved, split_inputs(example_inputs))
    try:
        other = capture(model, args or kwargs, method="run")
    except CaptureError:
        return "it fails on other values of the inputs"
    for one, two in zip(graph.nodes, other.nodes, strict=False):
        if (one.op, one.tensor, one.outputs) != (two.op, two.tensor, two.outputs) or not _alike(one.args, two.args):
            return f"{one.op} depends on values ({graph.where(one)})"
    if len(graph.nodes) != len(other.nodes):
        return "its length depends on values"
    for name, value in graph.constants.items():
        if name not in other.constants or not _equal(value, other.constants[name]):
            return "a tensor made outside torch depends on values"
    return ""


def _equal(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one.nan_to_num(), two.nan_to_num())


def _alike(one: Any, two: Any) -> bool:
    a, b = (pytree.tree_leaves(dict(args), is_leaf=lambda v: isinstance(v, Ref)) for args in (one, two))
    return len(a) == len(b) and all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))
