"""Rules of views and permutations: dims are multiplied, factored and moved."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.foundation.registry import words
from prunus.graph.ir import Node
from prunus.graph.layout import UNIT, ConflictError, Expr, product
from prunus.graph.rules.context import Dims, Flow, positive, rule


@rule(*words("view reshape flatten unflatten _unsafe_view view_as reshape_as _reshape_alias ravel view_copy"))
def view(flow: Flow, node: Node) -> list[Dims]:
    """Match runs of input and output dims with equal products; factor each run from its last output dim."""
    x = flow.dims(node.args["self"])
    shape = flow.shape(node.args["self"])
    if node.op == "aten.view.dtype":
        return [tuple(x)]
    out_shape = node.shape
    if 0 in shape or 0 in out_shape:
        return [tuple(flow.fresh(s, "empty") for s in out_shape)]
    out: list[Expr] = []
    i = j = 0
    while i < len(shape) or j < len(out_shape):
        start_i, start_j = i, j
        size_in = shape[i] if i < len(shape) else 1
        size_out = out_shape[j] if j < len(out_shape) else 1
        i, j = min(i + 1, len(shape)), min(j + 1, len(out_shape))
        while size_in != size_out:
            if size_in < size_out:
                size_in *= shape[i]
                i += 1
            else:
                size_out *= out_shape[j]
                j += 1
        out.extend(_run(flow, x[start_i:i], out_shape[start_j:j]))
    return [tuple(flow.norm(e) for e in out)]


def _run(flow: Flow, parts: Sequence[Expr], sizes: Sequence[int]) -> list[Expr]:
    whole = product(*parts)
    real = [s for s in sizes if s != 1]
    if len(real) <= 1:
        return [UNIT if s == 1 else whole for s in sizes]
    if flow.layout.is_frozen(whole):
        reason = flow.layout.reason(whole)
        return [flow.fresh(s, reason) for s in sizes]
    out: list[Expr] = []
    rest = whole
    try:
        for size in reversed(sizes):
            if size == 1:
                out.append(UNIT)
                continue
            rest, trail = flow.factor(rest, size)
            out.append(trail)
    except ConflictError:
        flow.freeze(whole, "reshape")
        return [flow.fresh(s, "reshape") for s in sizes]
    return [flow.norm(e) for e in reversed(out)]


@rule("permute", "permute_copy")
def permute(flow: Flow, node: Node) -> list[Dims]:
    """Reorder dims."""
    x = flow.dims(node.args["self"])
    return [tuple(x[d] for d in node.args["dims"])]


@rule("transpose", "swapaxes", "swapdims", "transpose_copy")
def transpose(flow: Flow, node: Node) -> list[Dims]:
    """Swap two dims."""
    x = flow.dims(node.args["self"])
    a, b = list(node.args.values())[1:3]
    x[a], x[b] = x[b], x[a]
    return [tuple(x)]


@rule("t", "numpy_T", "mT", "adjoint", "matrix_H")
def t(flow: Flow, node: Node) -> list[Dims]:
    """Transpose the last two dims (all dims for ``numpy_T``)."""
    x = flow.dims(node.args["self"])
    if "numpy_T" in node.op:
        return [tuple(reversed(x))]
    if len(x) > 1:
        x[-1], x[-2] = x[-2], x[-1]
    return [tuple(x)]


@rule("movedim", "moveaxis")
def movedim(flow: Flow, node: Node) -> list[Dims]:
    """Move dims, keeping the order of the rest."""
    x = flow.dims(node.args["self"])
    pair = node.args["source"], node.args["destination"]
    source, target = [[v] if isinstance(v, int) else list(v) for v in pair]
    source, target = [positive(s, len(x)) for s in source], [positive(d, len(x)) for d in target]
    rest = iter([i for i in range(len(x)) if i not in source])
    order = [source[target.index(i)] if i in target else next(rest) for i in range(len(x))]
    return [tuple(x[i] for i in order)]


@rule("unsqueeze", "unsqueeze_copy")
def unsqueeze(flow: Flow, node: Node) -> list[Dims]:
    """Insert a dim of size one."""
    x = flow.dims(node.args["self"])
    x.insert(positive(node.args["dim"], len(x) + 1), UNIT)
    return [tuple(x)]


@rule("squeeze", "squeeze_copy")
def squeeze(flow: Flow, node: Node) -> list[Dims]:
    """Drop dims of size one."""
    x = flow.dims(node.args["self"])
    which = node.get("dim")
    listed = range(len(x)) if which is None else [which] if isinstance(which, int) else which
    listed_dims = {positive(d, len(x)) for d in listed}
    return [tuple(e for i, e in enumerate(x) if i not in listed_dims or flow.size(e) != 1)]


@rule("expand", "broadcast_to", "expand_copy")
def expand(flow: Flow, node: Node) -> list[Dims]:
    """Repeat dims of size one without copying: each becomes a fresh axis."""
    x = flow.dims(node.args["self"])
    sizes = node.shape
    x = [UNIT] * (len(sizes) - len(x)) + x
    return [tuple(flow.fresh(s) if flow.size(e) == 1 and s != 1 else e for e, s in zip(x, sizes, strict=True))]


@rule("repeat", "tile")
def repeat(flow: Flow, node: Node) -> list[Dims]:
    """Multiply every dim by its repeats: n copies of x are n × x."""
    x = flow.dims(node.args["self"])
    counts = list(node.get("repeats", node.get("dims")))
    x = [UNIT] * (len(counts) - len(x)) + x
    counts = [1] * (len(x) - len(counts)) + counts
    times = [flow.fresh(n) for n in counts]
    flow.set_aux(node, "repeats", *times)
    return [tuple(product(n, e) for n, e in zip(times, x, strict=True))]


@rule("repeat_interleave")
def repeat_interleave(flow: Flow, node: Node) -> list[Dims]:
    """Repeat each position n times: x × n."""
    if "Tensor" in node.op.split(".")[-1] or not isinstance(node.get("repeats"), int):
        for expr in flow.dims(node.get("self", node.get("repeats"))):
            flow.freeze(expr, "repeat")
        return [tuple(flow.fresh(s, "repeat") for s in node.shape)]
    x = flow.dims(node.args["self"])
    times = flow.fresh(node.args["repeats"])
    flow.set_aux(node, "repeats", times)
    if node.get("dim") is None:
        return [(product(*x, times),)]
    dim = positive(node.args["dim"], len(x))
    x[dim] = product(x[dim], times)
    return [tuple(x)]
