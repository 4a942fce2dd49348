"""Rules of reductions, and of ops that depend on positions along a dim."""

from __future__ import annotations

from prunus.graph.ir import Node, Ref
from prunus.graph.layout import UNIT, Expr, concat
from prunus.graph.rules.context import RULES, Dims, Flow, positive, rule

STATISTIC_OPS = ("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "logsumexp", "nanmean")
_EXACT_OPS = ("sum", "linalg_vector_norm", "norm", "nansum", "count_nonzero")
_POSITIONAL_OPS = ("prod", "any", "all", "argmax", "argmin", "median", "mode", "quantile")


def reduced_dims(node: Node, rank: int) -> list[int]:
    """Return the dims over which a reduction runs, as non-negative numbers."""
    dim = node.get("dim")
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(rank))
    return [positive(d, rank) for d in ([dim] if isinstance(dim, int) else dim)]


def _reduce(flow: Flow, node: Node, touch: str) -> list[Dims]:
    x = flow.dims(node.args["self"])
    reduced = reduced_dims(node, len(x))
    for d in reduced:
        if touch == "statistic":
            flow.layout.mark_statistic(x[d])
        elif touch == "freeze":
            flow.freeze(x[d], node.op.split(".")[1])
    keep: list[Expr] = []
    for i, e in enumerate(x):
        if i not in reduced:
            keep.append(e)
        elif node.get("keepdim"):
            keep.append(UNIT)
    return [tuple(keep) for _ in node.outputs]


def _statistic(flow: Flow, node: Node) -> list[Dims]:
    return _reduce(flow, node, "statistic")


def _exact(flow: Flow, node: Node) -> list[Dims]:
    return _reduce(flow, node, "none")


def _positional(flow: Flow, node: Node) -> list[Dims]:
    if node.op.split(".")[1] == "argmax" and isinstance(node.get("dim"), int) and flow.routes.experts:
        dim = flow.dims(node.args["self"])[node.args["dim"]]
        if flow.routes.choose_again(dim, "argmax"):
            flow.ids.give(Ref(node.name), node.name, dim)
            return _reduce(flow, node, "none")
    return _reduce(flow, node, "freeze")


for _names, _rule in ((STATISTIC_OPS, _statistic), (_EXACT_OPS, _exact), (_POSITIONAL_OPS, _positional)):
    RULES.register(*_names)(_rule)


@rule("max", "min")
def extreme(flow: Flow, node: Node) -> list[Dims]:
    """Unify two tensors; reduce one along a dim: unused indices make it a statistic, used ones freeze it."""
    if isinstance(node.get("other"), Ref):
        return [flow.broadcast([flow.dims(node.args["self"]), flow.dims(node.args["other"])])]
    if Ref(node.name, 1) not in flow.used:
        return _reduce(flow, node, "statistic")
    dim = flow.dims(node.args["self"])[node.args["dim"]]
    if node.op.startswith("aten.max") and flow.routes.choose_again(dim, "max"):
        flow.ids.give(Ref(node.name, 1), node.name, dim)
        return _reduce(flow, node, "none")
    return _reduce(flow, node, "freeze")


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum")
def shared_out(flow: Flow, node: Node) -> list[Dims]:
    """Return the same dims; the op's own dim is frozen unless it holds experts that the user makes removable."""
    x = flow.dims(node.args["self"])
    if x:
        flow.routes.hold(x[node.args["dim"]], node.op.split(".")[1].strip("_"))
    return [tuple(x) for _ in node.outputs]


@rule("roll")
def roll(flow: Flow, node: Node) -> list[Dims]:
    """Rotate a dim by a constant: first + last becomes last + first; without a dim, freeze all."""
    x = flow.dims(node.args["self"])
    shifts, dims = node.args["shifts"], node.get("dims")
    if not dims:
        for e in x:
            flow.freeze(e, "roll")
        return [tuple(x)]
    moved: list[Expr] = []
    for shift, dim in zip(shifts, dims, strict=True):
        size = flow.size(x[dim])
        count = shift % size if size else 0
        first, last = flow.cuts(x[dim], [size - count, count]) if count else (x[dim], flow.fresh(0, "empty"))
        moved.append(last)
        x[dim] = concat(last, first) if count else x[dim]
    flow.set_aux(node, "shifts", *moved)
    return [tuple(flow.norm(e) for e in x)]


@rule("softmin", "cumprod", "logcumsumexp", "cummax", "flip", "fliplr", "flipud", "sort", "argsort", "renorm")
def positional_pass(flow: Flow, node: Node) -> list[Dims]:
    """Return the same dims; the op's own dim is frozen."""
    x = flow.dims(node.args["self"])
    dims = node.get("dim", node.get("dims"))
    which = range(len(x)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    for d in which:
        flow.freeze(x[d], node.op.split(".")[1].strip("_"))
    return [tuple(x) for _ in node.outputs]


@rule("topk", "kthvalue", "diff")
def shorter(flow: Flow, node: Node) -> list[Dims]:
    """Return the dims of a choice of positions: the dim changes size, and is frozen unless it may lose experts."""
    x = flow.dims(node.args["self"])
    dim, name = positive(node.get("dim", -1), len(x)), node.op.split(".")[1]
    if name == "topk" and node.get("largest") and flow.routes.choose(x[dim], int(node.args["k"]), name):
        flow.ids.give(Ref(node.name, 1), node.name, x[dim])
    else:
        flow.freeze(x[dim], name)
    results = []
    for meta in node.outputs:
        shape = meta.shape if meta is not None else ()
        if len(shape) == len(x):
            results.append((*x[:dim], flow.fresh(shape[dim], "topk"), *x[dim + 1 :]))
        else:
            results.append(tuple(e for i, e in enumerate(x) if i != dim))
    return results


@rule("tril", "triu")
def triangle(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the last two dims, of which a triangle is taken."""
    x = flow.dims(node.args["self"])
    for e in x[-2:]:
        flow.freeze(e, "triangle")
    return [tuple(x)]
