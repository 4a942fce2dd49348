"""Reductions and ops that look at positions along a dim."""

from __future__ import annotations

from prunus.graph.ir import Node, Ref
from prunus.graph.layout import UNIT, Expr
from prunus.graph.rules.flow import RULES, Dims, Flow, positive, rule

STATISTIC_OPS = ("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "logsumexp", "nanmean")
_EXACT_OPS = ("sum", "linalg_vector_norm", "norm", "nansum", "count_nonzero")
_POSITIONAL_OPS = ("prod", "any", "all", "argmax", "argmin", "median", "mode", "quantile")


def reduced_dims(node: Node, rank: int) -> list[int]:
    """Return the dims a reduction runs over, non-negative."""
    dim = node.get("dim")
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(rank))
    return [positive(d, rank) for d in ([dim] if isinstance(dim, int) else dim)]


def _reduce(flow: Flow, node: Node, touch: str) -> list[Dims]:
    x = flow.dims(node.args["self"])
    gone = reduced_dims(node, len(x))
    for d in gone:
        if touch == "statistic":
            flow.layout.mark_statistic(x[d])
        elif touch == "freeze":
            flow.freeze(x[d], node.op.split(".")[1])
    keep: list[Expr] = []
    for i, e in enumerate(x):
        if i not in gone:
            keep.append(e)
        elif node.get("keepdim"):
            keep.append(UNIT)
    return [tuple(keep) for _ in node.outputs]


def _statistic(flow: Flow, node: Node) -> list[Dims]:
    return _reduce(flow, node, "statistic")


def _exact(flow: Flow, node: Node) -> list[Dims]:
    return _reduce(flow, node, "none")


def _positional(flow: Flow, node: Node) -> list[Dims]:
    return _reduce(flow, node, "freeze")


for _names, _rule in ((STATISTIC_OPS, _statistic), (_EXACT_OPS, _exact), (_POSITIONAL_OPS, _positional)):
    RULES.register(*_names)(_rule)


@rule("max", "min")
def extreme(flow: Flow, node: Node) -> list[Dims]:
    """Elementwise with two tensors; with a dim, values alone are a statistic and indices freeze it."""
    if isinstance(node.get("other"), Ref):
        return [flow.broadcast([flow.dims(node.args["self"]), flow.dims(node.args["other"])])]
    indices = Ref(node.name, 1) in flow.used
    return _reduce(flow, node, "freeze" if indices else "statistic")


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin", "cumsum", "cumprod", "logcumsumexp", "cummax",
      "flip", "fliplr", "flipud", "roll", "sort", "argsort", "renorm")  # fmt: skip
def positional_pass(flow: Flow, node: Node) -> list[Dims]:
    """Same dims out; the dim worked along is frozen."""
    x = flow.dims(node.args["self"])
    dims = node.get("dim", node.get("dims"))
    which = range(len(x)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    for d in which:
        flow.freeze(x[d], node.op.split(".")[1].strip("_"))
    return [tuple(x) for _ in node.outputs]


@rule("topk", "kthvalue", "diff")
def shorter(flow: Flow, node: Node) -> list[Dims]:
    """Positions along a dim are chosen: the dim is frozen and changes size."""
    x = flow.dims(node.args["self"])
    dim = positive(node.get("dim", -1), len(x))
    flow.freeze(x[dim], node.op.split(".")[1])
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
    """A triangle of the last two dims: both frozen."""
    x = flow.dims(node.args["self"])
    for e in x[-2:]:
        flow.freeze(e, "triangle")
    return [tuple(x)]
