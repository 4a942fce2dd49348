"""Rules of lookups: the indexed dim is frozen unless a cut can renumber the index; other dims are kept."""

from __future__ import annotations

from prunus.foundation.registry import words
from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.layout import Expr
from prunus.graph.rules.constant_index import picked, unfollowed
from prunus.graph.rules.context import Dims, Flow, positive, rule


@rule("embedding")
def embedding(flow: Flow, node: Node) -> list[Dims]:
    """Relate weight (V, E) at indices (…) → (…, E)."""
    weight = flow.dims(node.args["weight"])
    if not flow.ids.looks_up(node.args["indices"], weight[0]):
        flow.freeze(weight[0], "vocabulary")
    return [(*flow.dims(node.args["indices"]), *weight[1:])]


@rule("embedding_bag", "_embedding_bag")
def embedding_bag(flow: Flow, node: Node) -> list[Dims | None]:
    """Return the dims of a sum or mean of embeddings, (B, E); the vocabulary is frozen."""
    weight = flow.dims(node.args["weight"])
    flow.freeze(weight[0], "vocabulary")
    results = flow.frozen_like(node, "index")
    meta = node.outputs[0]
    rows = flow.fresh(meta.shape[0], "input") if meta is not None else weight[0]
    results[0] = (rows, weight[1])
    return results


@rule("index", "_unsafe_index")
def index(flow: Flow, node: Node) -> list[Dims]:
    """Freeze the indexed dims unless they can follow a cut; the dims of the index stand where numpy puts them."""
    x = flow.dims(node.args["self"])
    picks = list(node.args["indices"])
    picks += [None] * (len(x) - len(picks))
    metas = [None if p is None else flow.graph.meta(p) for p in picks]
    if any(m is not None and str(m.dtype) in ("torch.bool", "torch.uint8") for m in metas):
        for e in x:
            flow.freeze(e, "mask")
        return [tuple(flow.fresh(s, "mask") for s in node.shape)]
    where = [i for i, p in enumerate(picks) if p is not None]
    for i in where:
        if len(where) > 1:
            unfollowed(flow, picks[i])
        if len(where) > 1 or picked(flow, x[i], picks[i]) is None:
            _look_up(flow, picks[i], x[i])
    spread = flow.broadcast([flow.dims(picks[i]) for i in where])
    together = where == list(range(where[0], where[-1] + 1))
    at = where[0] if together else 0
    rest = [e for i, e in enumerate(x) if i not in where]
    out = [*rest[:at], *spread, *rest[at:]]
    return [tuple(flow.norm(e) for e in out)]


@rule("index_select")
def index_select(flow: Flow, node: Node) -> list[Dims]:
    """Select positions of one dim."""
    x = flow.dims(node.args["self"])
    if not x:
        return [()]
    dim = positive(node.args["dim"], len(x))
    selected = picked(flow, x[dim], node.args["index"])
    if selected is None:
        _look_up(flow, node.args["index"], x[dim])
        selected = flow.fresh(node.shape[dim], "index")
    x[dim] = selected
    return [tuple(flow.norm(e) for e in x)]


@rule("gather", "take_along_dim")
def gather(flow: Flow, node: Node) -> list[Dims]:
    """Select positions of one dim, others at every place; the remaining dims of equal size unify."""
    x, picks = flow.dims(node.args["self"]), flow.dims(node.get("index", node.get("indices")))
    dim = node.get("dim")
    if dim is None or not picks:
        return _freeze_everything(flow, node)
    for i, (a, b) in enumerate(zip(x, picks, strict=True)):
        if i == positive(dim, len(x)):
            _look_up(flow, node.get("index", node.get("indices")), a)
        elif flow.size(a) == flow.size(b):
            flow.unify(a, b)
        else:
            flow.freeze(a, "index")
    return [tuple(flow.norm(e) for e in picks)]


def _look_up(flow: Flow, positions: Ref, dim: Expr) -> None:
    if not flow.ids.looks_up(positions, dim):
        flow.freeze(dim, "index")


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(flow: Flow, node: Node) -> list[Dims]:
    """Write at positions of one dim, frozen unless the positions follow a cut; dims of unequal size are frozen, too."""
    x = flow.dims(node.args["self"])
    values, dim = flow.maybe(node.get("src")), positive(node.args["dim"], len(x))
    if not x or (values and len(values) != len(x)):
        _freeze_everything(flow, node)
        return [tuple(x)]
    _look_up(flow, node.args["index"], x[dim])
    for i, (a, b) in enumerate(zip(x, flow.dims(node.args["index"]), strict=True)):
        for e in (b, *values[i : i + 1]):
            if i != dim and flow.size(e) == flow.size(a):
                flow.unify(a, e)
                continue
            flow.freeze(e, "index")
            if i != dim:
                flow.freeze(a, "index")
    return [tuple(flow.norm(e) for e in x)]


@rule("index_add", "index_copy", "index_fill", "masked_scatter")
def into(flow: Flow, node: Node) -> list[Dims]:
    """Freeze all dims of an op that writes at positions; the result has the dims of the target."""
    x = flow.dims(node.args["self"])
    _freeze_everything(flow, node)
    return [tuple(x)]


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(flow: Flow, node: Node) -> list[Dims]:
    """Write at an index: indexed dims are frozen unless they follow a cut, others unify with those of the values."""
    x = flow.dims(node.args["self"])
    picks = list(node.args["indices"])
    picks += [None] * (len(x) - len(picks))
    metas = [None if p is None else flow.graph.meta(p) for p in picks]
    if any(m is not None and str(m.dtype) == "torch.bool" for m in metas):
        _freeze_everything(flow, node)
        return [tuple(x)]
    rest: list[Expr] = []
    for e, p in zip(x, picks, strict=True):
        if p is None:
            rest.append(e)
        else:
            _look_up(flow, p, e)
    values = flow.dims(node.args["values"])
    for a, b in zip(reversed(rest), reversed(values), strict=False):
        if flow.size(b) != 1:
            flow.unify(a, b)
    return [tuple(flow.norm(e) for e in x)]


@rule("one_hot")
def one_hot(flow: Flow, node: Node) -> list[Dims]:
    """Add a dim of classes; it is the dim whose positions the values hold, or else a frozen one."""
    x, ref = flow.dims(node.args["self"]), node.args["self"]
    dim = flow.ids.dim(ref)
    if dim is None or node.get("num_classes") != flow.size(dim):
        return [(*x, flow.fresh(node.shape[-1], "one_hot"))]
    flow.ids.understood(ref)
    flow.set_aux(node, "num_classes", dim)
    return [(*x, dim)]


@rule("histc")
def histogram(flow: Flow, node: Node) -> list[Dims]:
    """Return the dim whose positions a histogram counts; any other histogram is frozen."""
    ref = node.args["self"]
    dim = flow.ids.dim(ref)
    if dim is None or (node.get("bins"), node.get("min"), node.get("max")) != (flow.size(dim), 0, flow.size(dim) - 1):
        return _freeze_everything(flow, node)
    flow.ids.understood(ref)
    flow.set_aux(node, "bins", dim)
    return [(dim,)]


def _freeze_everything(flow: Flow, node: Node) -> list[Dims]:
    for r in refs_in(node.args):
        for e in flow.dims(r):
            flow.freeze(e, "index")
    return [tuple(flow.fresh(s, "index") for s in (m.shape if m else ())) for m in node.outputs]


@rule(
    *words(
        "bucketize searchsorted isin unique_consecutive _unique2 nonzero masked_select item take bincount lu "
        "linalg_inv_ex fft_fft fft_fft2 fft_rfft2 fft_irfft2 fft_rfft fft_irfft fft_fftn stft view_as_real "
        "view_as_complex linalg_qr multinomial"
    )
)
def opaque(flow: Flow, node: Node) -> list[Dims]:
    """Freeze all dims of an op whose result depends on all positions."""
    return _freeze_everything(flow, node)
