"""Rules of concatenation and its inverses: dims become sums and are split again."""

from __future__ import annotations

from prunus.foundation.registry import words
from prunus.graph.ir import Node
from prunus.graph.layout import UNIT, Expr, concat
from prunus.graph.rules.context import Dims, Flow, positive, rule


@rule("cat", "concat", "concatenate")
def cat(flow: Flow, node: Node) -> list[Dims]:
    """Return the sum of the joined dims; the other dims unify."""
    values = [flow.dims(r) for r in node.args["tensors"] if 0 not in flow.shape(r)]
    if not values:
        return [tuple(flow.fresh(s, "empty") for s in node.shape)]
    rank = len(values[0])
    dim = positive(node.args["dim"], rank)
    out = []
    for i in range(rank):
        if i == dim:
            out.append(concat(*(v[i] for v in values)))
        else:
            flow.unify_all([v[i] for v in values])
            out.append(values[0][i])
    return [tuple(flow.norm(e) for e in out)]


@rule("stack")
def stack(flow: Flow, node: Node) -> list[Dims]:
    """Add a frozen dim that counts the operands."""
    values = [flow.dims(r) for r in node.args["tensors"]]
    out = list(flow.broadcast(values)) if values[0] else []
    out.insert(positive(node.args["dim"], len(out) + 1), flow.fresh(len(values), "stack"))
    return [tuple(out)]


@rule("hstack", "vstack", "column_stack", "dstack")
def other_stack(flow: Flow, node: Node) -> list[Dims]:
    """Freeze all dims of rarely used joins."""
    for r in node.args["tensors"]:
        for expr in flow.dims(r):
            flow.freeze(expr, "stack")
    return [tuple(flow.fresh(s, "stack") for s in node.shape)]


@rule(
    *words(
        "split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk unsafe_split_with_sizes split_copy "
        "split_with_sizes_copy hsplit vsplit"
    )
)
def split(flow: Flow, node: Node) -> list[Dims]:
    """Split a dim into consecutive pieces."""
    x = flow.dims(node.args["self"])
    dim = positive(node.get("dim", 0), len(x))
    sizes = [meta.shape[dim] for meta in node.outputs if meta is not None]
    pieces = flow.cuts(x[dim], sizes)
    return [tuple(flow.norm(piece if i == dim else e) for i, e in enumerate(x)) for piece in pieces]


@rule("unbind", "unbind_copy")
def unbind(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the dim whose positions become separate values."""
    x = flow.dims(node.args["self"])
    dim = positive(node.args["dim"], len(x))
    flow.freeze(x[dim], "select")
    rest = tuple(e for i, e in enumerate(x) if i != dim)
    return [rest for _ in node.outputs]


@rule("select", "select_copy")
def select(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the dim of which one position is taken."""
    x = flow.dims(node.args["self"])
    dim = positive(node.args["dim"], len(x))
    flow.freeze(x[dim], "select")
    return [tuple(e for i, e in enumerate(x) if i != dim)]


@rule("slice", "narrow", "slice_copy", "narrow_copy")
def slice_(flow: Flow, node: Node) -> list[Dims]:
    """Split a sum at a slice of step 1; a step s > 1 takes the first of every s positions and freezes the factor s."""
    x = flow.dims(node.args["self"])
    dim = positive(node.args["dim"], len(x))
    expr, size, new = x[dim], flow.size(x[dim]), node.shape[dim]
    if new == size:
        return [tuple(x)]
    if new == 0 or flow.layout.is_frozen(expr):
        x[dim] = flow.fresh(new, "empty" if new == 0 else flow.layout.reason(expr))
        return [tuple(x)]
    start, step = slice_start(node, size), int(node.get("step", 1) or 1)
    if step == 1:
        x[dim] = flow.cuts(expr, [start, new, size - start - new])[1]
    elif size % step == 0 and start < step:
        rest, trail = flow.factor(expr, step)
        flow.freeze(trail, "stride")
        x[dim] = rest
    else:
        x[dim] = _every(flow, expr, start, step, new)
        flow.set_aux(node, "start", flow.norm(expr))
    return [tuple(flow.norm(e) for e in x)]


def _every(flow: Flow, expr: Expr, start: int, step: int, count: int) -> Expr:
    """Take ``count`` positions ``step`` apart: the first of each whole block, and one of a last shorter block."""
    size = flow.size(expr)
    whole = count if start + count * step <= size else count - 1
    last = [1] if whole < count else []
    rest = size - start - whole * step - len(last)
    pieces = flow.cuts(expr, [start, whole * step, *last, rest])
    if not whole:
        return pieces[2]
    taken, block = flow.factor(flow.norm(pieces[1]), step)
    flow.freeze(block, "stride")
    return concat(flow.norm(taken), flow.norm(pieces[2])) if last else taken


def slice_start(node: Node, size: int) -> int:
    """Return the first position that a slice or narrow takes, as a non-negative number."""
    start = node.get("start")
    start = 0 if start is None else int(start)
    return min(max(start + size, 0) if start < 0 else start, size)


@rule("select_scatter", "slice_scatter")
def scatter_back(flow: Flow, node: Node) -> list[Dims]:
    """Return the dims of the whole into which a slice is written; the sliced dim is frozen."""
    x = flow.dims(node.args["self"])
    src = flow.dims(node.args["src"])
    dim = positive(node.args["dim"], len(x))
    flow.freeze(x[dim], "index")
    rest = [e for i, e in enumerate(x) if i != dim]
    if len(src) == len(x):
        src = [e for i, e in enumerate(src) if i != dim]
    for a, b in zip(rest, src, strict=True):
        if b != UNIT:
            flow.unify(a, b)
    return [tuple(flow.norm(e) for e in x)]


@rule("meshgrid", "broadcast_tensors")
def meshgrid(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the dims of meshgrid; unify those of broadcast_tensors."""
    values = [flow.dims(r) for r in node.args["tensors"]]
    if "broadcast" in node.op:
        both = flow.broadcast(values)
        return [both for _ in node.outputs]
    for v in values:
        for e in v:
            flow.freeze(e, "index")
    dims = tuple(flow.fresh(s, "index") for s in node.shape)
    return [dims for _ in node.outputs]
