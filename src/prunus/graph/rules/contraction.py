"""Rules of matrix products: contracted dims unify, batch dims broadcast."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.graph.ir import Node
from prunus.graph.layout import Expr
from prunus.graph.rules.context import Dims, Flow, rule


@rule("linear")
def linear(flow: Flow, node: Node) -> list[Dims]:
    """Relate x (…, I), weight (O, I), bias (O,) → (…, O)."""
    x, weight, bias = flow.dims(node.args["input"]), flow.dims(node.args["weight"]), flow.maybe(node.args["bias"])
    flow.unify(x[-1], weight[-1])
    if len(weight) == 1:
        return [tuple(x[:-1])]
    if bias:
        flow.unify(weight[0], bias[-1])
    return [(*x[:-1], flow.norm(weight[0]))]


def _matmul(flow: Flow, a: Sequence[Expr], b: Sequence[Expr]) -> Dims:
    flow.unify(a[-1], b[-2] if len(b) > 1 else b[0])
    rows = [] if len(a) == 1 else [a[-2]]
    columns = [] if len(b) == 1 else [b[-1]]
    batch = flow.broadcast([a[:-2], b[:-2]])
    return tuple(flow.norm(e) for e in (*batch, *rows, *columns))


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner_1d")
def matmul(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, L, K) × (…, K, M) → (…, L, M)."""
    first, second = list(node.args.values())[:2]
    return [_matmul(flow, flow.dims(first), flow.dims(second))]


@rule("addmm", "baddbmm", "addbmm", "addmv")
def addmm(flow: Flow, node: Node) -> list[Dims]:
    """Unify ``self`` with the product in self + a @ b."""
    own, first, second = list(node.args.values())[:3]
    return [flow.broadcast([_matmul(flow, flow.dims(first), flow.dims(second)), flow.dims(own)])]


@rule("outer", "ger")
def outer(flow: Flow, node: Node) -> list[Dims]:
    """Relate (N,) ⊗ (M,) → (N, M)."""
    first, second = list(node.args.values())[:2]
    return [(flow.dims(first)[0], flow.dims(second)[0])]


@rule("bilinear")
def bilinear(flow: Flow, node: Node) -> list[Dims]:
    """Relate x1 (…, I), x2 (…, J), weight (O, I, J) → (…, O)."""
    a, b, w = flow.dims(node.args["input1"]), flow.dims(node.args["input2"]), flow.dims(node.args["weight"])
    bias = flow.maybe(node.args["bias"])
    flow.unify(a[-1], w[1])
    flow.unify(b[-1], w[2])
    if bias:
        flow.unify(w[0], bias[0])
    return [(*flow.broadcast([a[:-1], b[:-1]]), flow.norm(w[0]))]


@rule("cosine_similarity", "pairwise_distance")
def similarity(flow: Flow, node: Node) -> list[Dims]:
    """Reduce a shared dim of two values."""
    first, second = list(node.args.values())[:2]
    both = list(flow.broadcast([flow.dims(first), flow.dims(second)]))
    both.pop(node.get("dim", -1))
    return [tuple(both)]


@rule("cdist", "_cdist_forward")
def cdist(flow: Flow, node: Node) -> list[Dims]:
    """Relate (…, P, M), (…, R, M) → (…, P, R)."""
    a, b = flow.dims(node.args["x1"]), flow.dims(node.args["x2"])
    flow.unify(a[-1], b[-1])
    return [(*flow.broadcast([a[:-2], b[:-2]]), a[-2], b[-2])]


@rule("einsum")
def einsum(flow: Flow, node: Node) -> list[Dims]:
    """Unify the dims of each letter; the dims of '…' broadcast."""
    equation = node.args["equation"].replace(" ", "")
    left, _, right = equation.partition("->")
    operands = [flow.dims(r) for r in node.args["tensors"]]
    letters: dict[str, Expr] = {}
    spread: list[list[Expr]] = []
    for spec, dims in zip(left.split(","), operands, strict=True):
        before, dots, after = spec.partition("...")
        hidden = len(dims) - len(before) - len(after)
        named = [*zip(before, dims[: len(before)], strict=True), *zip(after, dims[len(before) + hidden :], strict=True)]
        if dots:
            spread.append(dims[len(before) : len(before) + hidden])
        for letter, expr in named:
            if letter not in letters or flow.size(letters[letter]) == 1:
                letters[letter] = expr
            elif flow.size(expr) != 1:
                flow.unify(letters[letter], expr)
    if "->" not in equation:
        right = "..." * bool(spread) + "".join(sorted(c for c in letters if left.count(c) == 1))
    dotted = flow.broadcast(spread) if spread else ()
    before, dots, after = right.partition("...")
    out = [letters[c] for c in before] + list(dotted if dots else ()) + [letters[c] for c in after]
    return [tuple(flow.norm(e) for e in out)]


@rule("_grouped_mm", "prunus.grouped_mm")
def grouped_mm(flow: Flow, node: Node) -> list[Dims]:
    """Relate tokens sorted by expert (T, K) × (E, K, N) → (T, N); ``offs`` (E,) holds the end row of each expert."""
    a, b = flow.dims(node.args["self"]), flow.dims(node.args["mat2"])
    flow.unify(a[-1], b[-2])
    if len(b) == 3:
        flow.routes.hold(b[0], "experts")
        ends = flow.maybe(node.get("offs"))
        if ends:
            flow.unify(ends[0], b[0])
    return [(*a[:-1], flow.norm(b[-1]))]
