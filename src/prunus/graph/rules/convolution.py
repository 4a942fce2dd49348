"""Rules of convolutions, also grouped, depthwise and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.foundation.registry import words
from prunus.graph.ir import Node
from prunus.graph.layout import Expr, product
from prunus.graph.rules.context import Dims, Flow, rule


def _spatial(
    flow: Flow, node: Node, x: Sequence[Expr], kernel: Sequence[int], params: Sequence[tuple[int, int, int]]
) -> list[Expr]:
    """Keep a spatial dim that kernel, stride and padding leave unchanged; freeze any other."""
    out = []
    sizes = node.shape[-len(kernel) :]
    for expr, k, (stride, padding, out_padding), size in zip(x, kernel, params, sizes, strict=True):
        if k == 1 and stride == 1 and padding == 0 and out_padding == 0:
            out.append(expr)
        else:
            flow.freeze(expr, "spatial")
            out.append(flow.fresh(size, "spatial"))
    return out


def _each(value: object, count: int) -> list[int]:
    if isinstance(value, (list, tuple)):
        items = [int(v) for v in value]
        return items * count if len(items) == 1 else items
    if isinstance(value, str):
        return [1 if value == "same" else 0] * count
    return [int(value)] * count  # type: ignore[call-overload]


@rule(*words("conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d"))
def convolution(flow: Flow, node: Node) -> list[Dims]:
    """Relate x (B, C, …) and weight (O, C/G, k…): x = G×I, weight (G×O, I); transposed: weight (C, O/G, k…)."""
    x, w = flow.dims(node.args["input"]), flow.dims(node.args["weight"])
    rank = len(w) - 2
    transposed = bool(node.get("transposed", "transpose" in node.op))
    groups = int(node.args["groups"])
    kernel = list(flow.shape(node.args["weight"])[2:])
    for expr in w[2:]:
        flow.freeze(expr, "kernel")
    channel = len(x) - rank - 1
    out = _transposed(flow, node, x[channel], w, groups) if transposed else _direct(flow, node, x[channel], w, groups)
    bias = flow.maybe(node.args["bias"])
    if bias:
        flow.unify(out, bias[0])
    steps = zip(
        _each(node.args["stride"], rank),
        _each(node.args["padding"], rank),
        _each(node.get("output_padding", 0), rank),
        strict=True,
    )
    spatial = _spatial(flow, node, x[channel + 1 :], kernel, list(steps))
    return [(*x[:channel], flow.norm(out), *spatial)]


def _direct(flow: Flow, node: Node, x: Expr, w: list[Expr], groups: int) -> Expr:
    if groups == 1:
        flow.unify(x, w[1])
        return w[0]
    group, inner = flow.factor(x, flow.size(x) // groups)
    group_out, _ = flow.factor(w[0], flow.size(w[0]) // groups)
    flow.unify(inner, w[1])
    flow.unify(group, group_out)
    flow.set_aux(node, "groups", flow.norm(group))
    return flow.norm(w[0])


def _transposed(flow: Flow, node: Node, x: Expr, w: list[Expr], groups: int) -> Expr:
    flow.unify(x, w[0])
    if groups == 1:
        return w[1]
    group, _ = flow.factor(w[0], flow.size(w[0]) // groups)
    flow.set_aux(node, "groups", flow.norm(group))
    return product(flow.norm(group), flow.norm(w[1]))
