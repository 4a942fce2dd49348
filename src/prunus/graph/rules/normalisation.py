"""Rules of normalisations: channels unify with scale and shift; averaged dims are marked as statistics."""

from __future__ import annotations

from prunus.graph.ir import Node
from prunus.graph.rules.context import Dims, Flow, rule


def _results(node: Node, out: Dims, flow: Flow) -> list[Dims | None]:
    extra: list[Dims | None] = [
        None if meta is None else tuple(flow.fresh(s, "statistic") for s in meta.shape) for meta in node.outputs[1:]
    ]
    return [out, *extra]


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def batch_norm(flow: Flow, node: Node) -> list[Dims | None]:
    """Unify C of x (B, C, …) with weight, bias, running mean and variance (C,)."""
    x = flow.dims(node.args["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        ref = node.get(name)
        if ref is not None:
            flow.unify(x[1], flow.dims(ref)[0])
    training = node.get("training", node.get("use_input_stats", False))
    if training or node.get("running_mean") is None:
        for i, expr in enumerate(x):
            if i != 1:
                flow.layout.mark_statistic(expr)
    return _results(node, tuple(flow.norm(e) for e in x), flow)


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(flow: Flow, node: Node) -> list[Dims | None]:
    """Mark the trailing dims as averaged, and unify them with weight and bias."""
    x = flow.dims(node.args["input"])
    count = len(node.args["normalized_shape"])
    for name in ("weight", "bias"):
        ref = node.get(name)
        if ref is not None:
            for a, b in zip(x[-count:], flow.dims(ref), strict=True):
                flow.unify(a, b)
    for expr in x[-count:]:
        flow.layout.mark_statistic(expr)
    return _results(node, tuple(flow.norm(e) for e in x), flow)


@rule("group_norm")
def group_norm(flow: Flow, node: Node) -> list[Dims | None]:
    """Mark c and the trailing dims of x (B, G×c, …) as averaged; both G and c may be cut."""
    x = flow.dims(node.args["input"])
    for name in ("weight", "bias"):
        ref = node.get(name)
        if ref is not None:
            flow.unify(x[1], flow.dims(ref)[0])
    group, inner = flow.factor(flow.norm(x[1]), flow.size(x[1]) // int(node.args["num_groups"]))
    flow.layout.mark_statistic(inner)
    for expr in x[2:]:
        flow.layout.mark_statistic(expr)
    flow.set_aux(node, "num_groups", group)
    return _results(node, tuple(flow.norm(e) for e in x), flow)
