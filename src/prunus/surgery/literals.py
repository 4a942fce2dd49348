"""Rewrite a graph for a plan: every size literal is recomputed from the expression it counts, never searched for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prunus.errors import PlanError
from prunus.graph.coupling import Coupling, Keep
from prunus.graph.grouped import NAME as GROUPED
from prunus.graph.grouped import row_items
from prunus.graph.ir import INPUT, TENSOR, Graph, Node, Ref, TensorMeta, map_refs
from prunus.graph.layout import Expr
from prunus.graph.passes import drop_dead
from prunus.graph.rules.flow import base_name, positive
from prunus.graph.rules.join import slice_start
from prunus.plans import Drop
from prunus.registry import Registry

Args = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Old and new sizes of everything, under one keep."""

    coupling: Coupling
    keep: Keep

    def old(self, ref: Ref) -> tuple[int, ...]:
        """Return the shape before."""
        return self.coupling.graph.meta(ref).shape

    def new(self, ref: Ref) -> tuple[int, ...]:
        """Return the shape after."""
        return tuple(self.coupling.kept(e, self.keep) for e in self.coupling.values[ref])

    def aux(self, node: Node, key: str) -> list[int] | None:
        """Return the new values of a literal that counts an expression, or None where none was noted."""
        exprs = self.coupling.aux.get((node.name, key))
        return None if exprs is None else [self.coupling.kept(e, self.keep) for e in exprs]

    def prefix(self, expr: Expr, stop: int) -> int:
        """Return how many of the first ``stop`` positions of a dim stay."""
        return int(np.count_nonzero(self.coupling.mask(expr, self.keep)[:stop]))


Rewrite = Callable[[Sizes, Node], "tuple[str, Args] | None"]
REWRITES: Registry[Rewrite] = Registry("rewrite")


def rewrite(coupling: Coupling, keep: Keep, drops: Sequence[Drop] = ()) -> Graph:
    """Return the program of the cut model: new shapes, new literals, bypassed branches gone.

    Raises:
        PlanError: an axis would be emptied that something still needs.
    """
    sizes = Sizes(coupling, keep)
    graph = coupling.graph
    alias = _bypasses(graph, drops)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in alias:
            continue
        metas = tuple(
            None if m is None else TensorMeta(sizes.new(Ref(node.name, i)), m.dtype) for i, m in enumerate(node.outputs)
        )
        op, args = node.op, node.args
        if node.op not in (INPUT, TENSOR):
            found = _rewritten(sizes, node)
            op, args = found if found is not None else (node.op, node.args)
            args = {k: map_refs(v, lambda r: alias.get(r.node, r)) for k, v in args.items()}
            args = _without_empty(sizes, op, args)
        nodes.append(dataclasses.replace(node, op=op, args=args, outputs=metas))
    outputs = tuple(map_refs(o, lambda r: alias.get(r.node, r)) for o in graph.outputs)
    tensors = {
        name: dataclasses.replace(i, shape=tuple(coupling.kept(e, keep) for e in coupling.tensors[name]))
        for name, i in graph.tensors.items()
    }
    calls = (
        tuple(
            dataclasses.replace(
                c,
                in_leaves=tuple(map_refs(x, lambda r: alias.get(r.node, r)) for x in c.in_leaves),
                out_leaves=tuple(map_refs(x, lambda r: alias.get(r.node, r)) for x in c.out_leaves),
            )
            for c in graph.calls
        )
        if alias
        else graph.calls
    )
    edited = dataclasses.replace(graph, nodes=tuple(nodes), outputs=outputs, tensors=tensors, calls=calls, _by_name={})
    edited = _without_orphans(graph, drop_dead(edited))
    _refuse_empty(coupling, edited)
    return edited


def _without_orphans(before: Graph, edited: Graph) -> Graph:
    """Forget the tensors that lost their last reader; those that never had one are the user's to keep."""
    gone = {n.tensor for n in before.nodes if n.op == TENSOR} - {n.tensor for n in edited.nodes if n.op == TENSOR}
    tensors = {name: info for name, info in edited.tensors.items() if name not in gone}
    aliases = {alias: name for alias, name in edited.aliases.items() if name not in gone}
    return dataclasses.replace(edited, tensors=tensors, aliases=aliases, _by_name={}) if gone else edited


def _rewritten(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    member = REWRITES.find(base_name(node.op)) if node.op.startswith("aten.") else None
    return member(sizes, node) if member is not None else None


def _bypasses(graph: Graph, drops: Sequence[Drop]) -> dict[str, Ref]:
    """Map each bypassed addition to the operand that stays."""
    alias: dict[str, Ref] = {}
    known = {n.name for n in graph.nodes}
    for drop in drops:
        if drop.join not in known:
            raise PlanError(f"The plan bypasses {drop.label!r} at node {drop.join!r}, which this model does not have.")
        node = graph.node(drop.join)
        if drop.join in alias:
            raise PlanError(f"Both branches of {drop.join!r} ({drop.label}) would go; keep one.")
        alias[drop.join] = [node.args["self"], node.args["other"]][1 - drop.operand]

    def final(ref: Ref) -> Ref:
        while ref.node in alias:
            ref = alias[ref.node]
        return ref

    return {name: final(ref) for name, ref in alias.items()}


def _without_empty(sizes: Sizes, op: str, args: Args) -> Args:
    """Drop the operands of a concatenation that lost everything."""
    if base_name(op) not in ("cat", "concat", "concatenate"):
        return args
    real = [r for r in args["tensors"] if 0 not in sizes.new(r) or 0 in sizes.old(r)]
    return args if len(real) == len(args["tensors"]) or not real else {**args, "tensors": real}


def _refuse_empty(coupling: Coupling, edited: Graph) -> None:
    for node in edited.nodes:
        for i, meta in enumerate(node.outputs):
            if meta is None or 0 not in meta.shape:
                continue
            old = coupling.graph.meta(Ref(node.name, i)).shape
            if 0 not in old:
                dim = [n == 0 and o != 0 for n, o in zip(meta.shape, old, strict=True)].index(True)
                where = node.tensor or coupling.graph.where(coupling.graph.node(node.name))
                raise PlanError(
                    f"{where} would keep 0 of {old[dim]} units in dim {dim}; at least 1 must stay. "
                    "Raise the budget or exempt it."
                )


def literal_changes(before: Graph, after: Graph) -> dict[str, tuple[str, ...]]:
    """Return node name → names of literal arguments whose value changed (renamed ops with equal sizes do not count)."""
    changed: dict[str, tuple[str, ...]] = {}
    for node in after.nodes:
        if node.op in (INPUT, TENSOR):
            continue
        old = before.node(node.name)
        names = tuple(k for k, v in node.args.items() if _literals(v) != _literals(old.args.get(k)))
        if names:
            changed[node.name] = names
    return changed


def _literals(value: Any) -> Any:
    if isinstance(value, Ref):
        return None
    if isinstance(value, (list, tuple)):
        return [_literals(v) for v in value]
    return value


def _with(node: Node, **changes: Any) -> tuple[str, Args]:
    return node.op, {**node.args, **changes}


@REWRITES.register("view", "reshape", "_unsafe_view", "view_copy", "_reshape_alias")
def _view(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    if "dtype" in node.op:
        return None
    old = list(node.get("size", node.get("shape")))
    new = [n if o != -1 else -1 for o, n in zip(old, sizes.new(Ref(node.name)), strict=True)]
    if new == old:
        return None
    return "aten.reshape.default", {"self": node.args["self"], "shape": new}


@REWRITES.register("unflatten")
def _unflatten(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    rank = len(sizes.old(node.args["self"]))
    dim, old = positive(node.args["dim"], rank), list(node.args["sizes"])
    new = sizes.new(Ref(node.name))[dim : dim + len(old)]
    return _with(node, sizes=[n if o != -1 else -1 for o, n in zip(old, new, strict=True)])


@REWRITES.register("expand", "broadcast_to", "expand_copy")
def _expand(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new = sizes.new(Ref(node.name))
    return _with(node, size=[-1 if o == -1 else n for o, n in zip(node.args["size"], new, strict=True)])


@REWRITES.register("zeros", "ones", "full", "empty", "rand", "randn", "randint", "new_zeros", "new_ones", "new_full",
                   "new_empty")  # fmt: skip
def _create(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    return _with(node, size=list(sizes.new(Ref(node.name)))) if "size" in node.args else None


@REWRITES.register("layer_norm", "rms_norm", "native_layer_norm")
def _layer_norm(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    count = len(node.args["normalized_shape"])
    return _with(node, normalized_shape=list(sizes.new(Ref(node.name))[-count:]))


def _counted(key: str) -> Rewrite:
    def apply(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
        new = sizes.aux(node, key)
        return None if new is None else _with(node, **{key: new[0]})

    return apply


REWRITES.register("group_norm")(_counted("num_groups"))
REWRITES.register("channel_shuffle", "native_channel_shuffle", "convolution", "_convolution", "conv1d", "conv2d",
                  "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")(_counted("groups"))  # fmt: skip
REWRITES.register("repeat_interleave")(_counted("repeats"))


@REWRITES.register("repeat", "tile")
def _repeat(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new = sizes.aux(node, "repeats")
    key = "repeats" if "repeats" in node.args else "dims"
    return None if new is None else _with(node, **{key: new[-len(node.args[key]) :]})


@REWRITES.register("pad", "constant_pad_nd")
def _pad(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new = sizes.aux(node, "pad")
    if new is None:
        return None
    return _with(node, pad=[-n if o < 0 else n for o, n in zip(node.args["pad"], new, strict=True)])


@REWRITES.register("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk",
                   "unsafe_split_with_sizes")  # fmt: skip
def _split(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    rank = len(sizes.old(node.args["self"]))
    dim = positive(node.get("dim", 0), rank)
    refs = [Ref(node.name, i) for i in range(len(node.outputs))]
    old, new = [sizes.old(r)[dim] for r in refs], [sizes.new(r)[dim] for r in refs]
    if old == new or (base_name(node.op) == "chunk" and new == _chunks(sum(new), len(new))):
        return None
    return "aten.split_with_sizes.default", {"self": node.args["self"], "split_sizes": new, "dim": dim}


def _chunks(total: int, pieces: int) -> list[int]:
    width = math.ceil(total / pieces)
    return [min(width, total - i) for i in range(0, total, width)]


@REWRITES.register("slice", "narrow", "slice_copy", "narrow_copy")
def _slice(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    ref = node.args["self"]
    dim = positive(node.args["dim"], len(sizes.old(ref)))
    old, new = sizes.old(ref)[dim], sizes.new(ref)[dim]
    taken_old, taken = node.shape[dim], sizes.new(Ref(node.name))[dim]
    step = node.get("step", 1) or 1
    if (old == new and taken == taken_old) or step != 1 or taken_old == old:
        return None
    begin = slice_start(node, old)
    expr = sizes.coupling.values[ref][dim]
    start = sizes.prefix(expr, begin)
    if "length" in node.args:
        return _with(node, start=start, length=taken)
    open_end = begin + taken_old == old and (node.get("end") is None or node.args["end"] >= old)
    end = node.get("end") if open_end else start + taken
    negative = (node.get("start") or 0) < 0
    return _with(node, start=start - new if negative and open_end else start, end=end)


@REWRITES.register("squeeze")
def _squeeze(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    if node.get("dim") is not None:
        return None
    old, new = sizes.old(node.args["self"]), sizes.new(node.args["self"])
    gone = [i for i, n in enumerate(old) if n == 1]
    if [i for i, n in enumerate(new) if n == 1] == gone:
        return None
    return "aten.squeeze.dims", {"self": node.args["self"], "dim": gone}


@REWRITES.register("scaled_dot_product_attention")
def _attention(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    old, new = sizes.old(node.args["query"])[-1], sizes.new(node.args["query"])[-1]
    if node.get("scale") is not None or old == new:
        return None
    return _with(node, scale=1 / math.sqrt(old))


@REWRITES.register("_grouped_mm")
def _experts(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    """Torch's kernel takes rows of whole 16 bytes alone; other sizes go through an op that pads."""
    first, second = node.args["self"], node.args["mat2"]
    step = row_items(sizes.coupling.graph.meta(first).dtype)
    plain = len(sizes.old(first)) == 2 and len(sizes.old(second)) == 3
    aligned = not any(n % step for n in sizes.new(second)[1:])
    if aligned or not plain or node.get("bias") is not None or node.get("out_dtype") is not None:
        return None
    return GROUPED, {"self": first, "mat2": second, "offs": node.args["offs"]}


__all__ = ["REWRITES", "Sizes", "literal_changes", "rewrite"]
