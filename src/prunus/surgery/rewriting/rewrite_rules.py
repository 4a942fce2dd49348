"""Rules that recompute the literals of one op after a cut from the dims that they count; one function an op family."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from prunus.foundation.registry import Registry
from prunus.graph.coupling import Coupling, Keep
from prunus.graph.grouped_mm import NAME as GROUPED
from prunus.graph.grouped_mm import row_items
from prunus.graph.ir import Node, Ref
from prunus.graph.layout import Expr
from prunus.graph.rules.context import base_name, positive
from prunus.graph.rules.join import slice_start

Args = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Old and new sizes of every value, for one choice of kept units."""

    coupling: Coupling
    keep: Keep

    def old(self, ref: Ref) -> tuple[int, ...]:
        """Return the shape before the cut."""
        return self.coupling.graph.meta(ref).shape

    def new(self, ref: Ref) -> tuple[int, ...]:
        """Return the shape after the cut."""
        return tuple(self.coupling.kept(e, self.keep) for e in self.coupling.values[ref])

    def aux(self, node: Node, key: str) -> list[int] | None:
        """Return the new values of a literal that counts expressions, or None if the coupling noted none."""
        exprs = self.coupling.aux.get((node.name, key))
        return None if exprs is None else [self.coupling.kept(e, self.keep) for e in exprs]

    def prefix(self, expr: Expr, stop: int) -> int:
        """Return the number of kept positions among the first ``stop`` of a dim."""
        return int(np.count_nonzero(self.coupling.mask(expr, self.keep)[:stop]))

    def position(self, expr: Expr, old: int, removed: int) -> int:
        """Return the new number of a position: ``removed`` if it is cut, ``old`` if it lies outside the dim."""
        if not 0 <= old < self.coupling.size(expr):
            return old
        return self.prefix(expr, old) if self.coupling.mask(expr, self.keep)[old] else removed


Rewrite = Callable[[Sizes, Node], "tuple[str, Args] | None"]
REWRITES: Registry[Rewrite] = Registry("rewrite")


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


@REWRITES.register(
    "zeros", "ones", "full", "empty", "rand", "randn", "randint", "new_zeros", "new_ones", "new_full", "new_empty"
)
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
REWRITES.register(
    "channel_shuffle",
    "native_channel_shuffle",
    "convolution",
    "_convolution",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)(_counted("groups"))
REWRITES.register("one_hot")(_counted("num_classes"))


@REWRITES.register("repeat_interleave")
def _repeat_interleave(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new, output_size = sizes.aux(node, "repeats"), node.get("output_size")
    if new is None and output_size is None:
        return None
    changes = {} if new is None else {"repeats": new[0]}
    if output_size is not None:
        shape = sizes.new(Ref(node.name))
        changes["output_size"] = shape[0 if node.get("dim") is None else positive(node.args["dim"], len(shape))]
    return _with(node, **changes)


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


@REWRITES.register("roll")
def _roll(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new = sizes.aux(node, "shifts")
    if new is None:
        return None
    after = sizes.new(Ref(node.name))
    pairs = zip(node.args["shifts"], new, node.args["dims"], strict=True)
    return _with(node, shifts=[old if old in (n, n - after[d]) else n for old, n, d in pairs])


@REWRITES.register(
    "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"
)
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
    if (old == new and taken == taken_old) or taken_old == old:
        return None
    begin = slice_start(node, old)
    expr = sizes.coupling.values[ref][dim]
    start = sizes.prefix(expr, begin)
    if step != 1:
        known = (node.name, "start") in sizes.coupling.aux
        return _with(node, start=start, end=start + (taken - 1) * step + 1) if known else None
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
    squeezed = [i for i, n in enumerate(old) if n == 1]
    if [i for i, n in enumerate(new) if n == 1] == squeezed:
        return None
    return "aten.squeeze.dims", {"self": node.args["self"], "dim": squeezed}


@REWRITES.register("scaled_dot_product_attention")
def _attention(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    old, new = sizes.old(node.args["query"])[-1], sizes.new(node.args["query"])[-1]
    if node.get("scale") is not None or old == new:
        return None
    return _with(node, scale=1 / math.sqrt(old))


@REWRITES.register("histc")
def _histogram(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    new = sizes.aux(node, "bins")
    return None if new is None else _with(node, bins=new[0], max=new[0] - 1)


@REWRITES.register("embedding")
def _embedding(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    rows, padding = sizes.coupling.values[node.args["weight"]][0], node.get("padding_idx", -1)
    return _with(node, padding_idx=sizes.position(rows, padding, -1)) if padding >= 0 else None


@REWRITES.register("eq", "ne", "not_equal")
def _comparison(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    exprs = sizes.coupling.aux.get((node.name, "other"))
    if exprs is None:
        return None
    never = sizes.coupling.kept(exprs[0], sizes.keep)  # one past the last id, so that no id equals it
    return _with(node, other=sizes.position(exprs[0], node.args["other"], never))


@REWRITES.register("_grouped_mm")
def _experts(sizes: Sizes, node: Node) -> tuple[str, Args] | None:
    """Use an op that pads if rows are no multiple of 16 bytes, which torch's kernel requires."""
    first, second = node.args["self"], node.args["mat2"]
    step = row_items(sizes.coupling.graph.meta(first).dtype)
    plain = len(sizes.old(first)) == 2 and len(sizes.old(second)) == 3
    aligned = not any(n % step for n in sizes.new(second)[1:])
    if aligned or not plain or node.get("bias") is not None or node.get("out_dtype") is not None:
        return None
    return GROUPED, {"self": first, "mat2": second, "offs": node.args["offs"]}
