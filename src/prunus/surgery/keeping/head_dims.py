"""The axes that are the width of a head: attention contracts them, or they are its values, with heads beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from prunus.graph.coupling import Coupling
from prunus.graph.ir import INPUT, TENSOR, Node, Ref
from prunus.graph.layout import Frozen, Prod, atoms_of
from prunus.graph.rules.context import base_name


def head_dims(model: nn.Module, coupling: Coupling) -> dict[int, Frozen]:
    """Return the atoms that are the width of a head where heads can go: what attention contracts, and its values."""
    inside: dict[int, str] = {}
    for node in coupling.graph.nodes:
        for ref in _attended(coupling, node):
            for expr in coupling.values[ref][-2:]:
                inside.update(dict.fromkeys(atoms_of(expr), node.name))
    beside = {
        a
        for dims in coupling.tensors.values()
        for expr in dims
        for product in products_of(expr)
        if any(a in coupling.axis_of and a not in inside for a in atoms_of(product))
        for a in atoms_of(product)
    }
    found = {
        a: Frozen("head dims stay whole, heads go", node)
        for a, node in inside.items()
        if a in coupling.axis_of and a in beside
    }
    return {**_widths_of_torch_attention(model, coupling), **found}


def _widths_of_torch_attention(model: nn.Module, coupling: Coupling) -> dict[int, Frozen]:
    """Return the widths in and out of torch's own attention: its callers know them, and its heads can go instead."""
    found: dict[int, Frozen] = {}
    for path, module in model.named_modules():
        if type(module) is not nn.MultiheadAttention:
            continue
        projected = coupling.tensors.get(f"{path}.in_proj_weight")
        if projected is None or not any(a in coupling.axis_of for a in atoms_of(projected[0])):
            continue
        for expr in (projected[1], coupling.tensors[f"{path}.out_proj.weight"][0]):
            for atom in atoms_of(expr):
                if atom in coupling.axis_of:
                    found[atom] = Frozen(f"{path or 'the model'} is torch's attention: its width stays, heads go", "")
    return found


def products_of(expr: Any) -> Iterator[Prod]:
    """Yield the outermost products in an expression."""
    if isinstance(expr, Prod):
        yield expr
    elif not isinstance(expr, int):
        for term in expr.terms:
            yield from products_of(term)


def _attended(coupling: Coupling, node: Node) -> list[Ref]:
    """Return the operands of a product of two activations, queries, keys and values among them."""
    if node.op in (INPUT, TENSOR):
        return []
    name = base_name(node.op)
    if name == "scaled_dot_product_attention":
        return [node.args[k] for k in ("query", "key", "value")]
    if name in ("matmul", "bmm", "baddbmm"):
        refs = [r for r in list(node.args.values())[1 if name == "baddbmm" else 0 :] if isinstance(r, Ref)][:2]
    elif name == "einsum":
        refs = list(node.args["tensors"])
    else:
        return []
    if len(refs) != 2 or any(coupling.graph.node(r.node).op == TENSOR for r in refs):
        return []
    return refs
