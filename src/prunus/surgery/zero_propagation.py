"""Rules that propagate marks of possible non-zeros, and of possible influence, through the ops of a program.

A mark is 1 where a value may differ from zero, and 0 where it never does. A rule maps marks to non-negative numbers:
each is a sum of one term for every path on which an operand reaches the result. The number is positive exactly where
the result may differ from zero, and its derivative is positive exactly where an operand may influence the result. If
nothing better is known about an op, all of its result is marked, and every operand influences all of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree

from prunus.foundation.registry import Registry
from prunus.graph.interpreter import call_arguments, keyword_only, resolve
from prunus.graph.ir import Graph, Node, map_refs
from prunus.graph.rules.context import base_name
from prunus.graph.rules.reduction import reduced_dims

MARK = torch.float64  # exact zeros: the float32 kernels of some backends round them


@dataclass(frozen=True, slots=True)
class Step:
    """One op on marks: its arguments by name, with tensors as marks, and a function that runs the op on them."""

    node: Node
    args: Mapping[str, Any]
    run: Callable[..., Any]

    @property
    def first(self) -> torch.Tensor:
        """The first argument."""
        value: torch.Tensor = next(iter(self.args.values()))
        return value

    def marks(self) -> list[torch.Tensor]:
        """Return every tensor among the arguments."""
        return [x for x in pytree.tree_leaves(dict(self.args)) if isinstance(x, torch.Tensor)]


Influence = Callable[[Step], Any]
INFLUENCES: Registry[Influence] = Registry("influence")


def influence(
    graph: Graph, node: Node, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run one op on marks: by its own rule, as a view, as an elementwise op, or else as all operands on all results."""
    keyword = keyword_only(node.op)
    names = [name for name in node.args if name not in keyword]
    named = {**dict(zip(names, args, strict=True)), **kwargs}

    def run(**changes: Any) -> Any:
        positional, keywords = call_arguments(node, {**named, **changes})
        return function(*positional, **keywords)

    step = Step(node, named, run)
    rule = INFLUENCES.find(base_name(node.op)) if node.op.startswith("aten.") else None
    marks = rule(step) if rule is not None else None
    if marks is None and shows_memory(node.op):
        marks = run()
    if marks is None and torch.Tag.pointwise in resolve(node.op).tags:
        marks = _elementwise(graph, step)
    return _everything(step) if marks is None else marks


@functools.cache
def shows_memory(op: str) -> bool:
    """Return True if an op returns a view of its first argument, position by position."""
    if base_name(op) in ("as_strided", "view_as_complex", "view_as_real", "real", "imag") or op.endswith("view.dtype"):
        return False
    infos = [r.alias_info for r in resolve(op)._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def _elementwise(graph: Graph, step: Step) -> torch.Tensor:
    def zeros(ref: Any) -> torch.Tensor:
        return torch.zeros((), dtype=graph.meta(ref).dtype)

    args, kwargs = call_arguments(step.node, {k: map_refs(v, zeros) for k, v in step.node.args.items()})
    total = sum(step.marks()) + torch.zeros(step.node.shape, dtype=MARK)
    return total if bool((resolve(step.node.op)(*args, **kwargs) == 0).all()) else total + 1


def _everything(step: Step) -> Any:
    total = torch.ones((), dtype=MARK) + sum(x.sum() for x in step.marks())
    results = [None if m is None else total.expand(m.shape) for m in step.node.outputs]
    return results if step.node.multi else results[0]


def _spread(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """Spread the marks along some dims, so that every position there depends on all others."""
    return x.sum(tuple(dims), keepdim=True).expand(x.shape) if dims else x


def _on_channels(value: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor | float:
    return 1.0 if value is None else value.reshape(1, -1, *[1] * (x.dim() - 2))


@INFLUENCES.register(
    "detach",
    "alias",
    "lift_fresh",
    "lift_fresh_copy",
    "clone",
    "contiguous",
    "to",
    "_to_copy",
    "type_as",
    "dropout",
    "feature_dropout",
)
def _same(step: Step) -> Any:
    return step.first


@INFLUENCES.register(
    "reshape",
    "flatten",
    "unflatten",
    "cat",
    "concat",
    "concatenate",
    "stack",
    "repeat",
    "tile",
    "roll",
    "flip",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "split",
    "chunk",
    "tensor_split",
    "_unsafe_view",
)
def _moved(step: Step) -> Any:
    return None if any(isinstance(v, torch.Tensor) for k, v in step.args.items() if k in _PLACES) else step.run()


_PLACES = ("indices", "tensor_indices_or_sections", "repeats")


@INFLUENCES.register("repeat_interleave")
def _repeated(step: Step) -> Any:
    return step.run() if step.node.op.endswith("self_int") else None


@INFLUENCES.register("pad", "constant_pad_nd")
def _padded(step: Step) -> Any:
    return step.run() if step.args.get("mode", "constant") == "constant" and not step.args.get("value") else None


@INFLUENCES.register("mul", "multiply")
def _product(step: Step) -> Any:
    a, b = step.args["self"], step.args["other"]
    return a * (b if isinstance(b, torch.Tensor) else float(b != 0))


@INFLUENCES.register("div", "divide", "true_divide")
def _quotient(step: Step) -> Any:
    a, b = step.args["self"], step.args["other"]
    return a * (1 + b) if isinstance(b, torch.Tensor) else a


@INFLUENCES.register(
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "addmv",
    "baddbmm",
    "addbmm",
    "mv",
    "dot",
    "einsum",
    "bilinear",
    "conv1d",
    "conv2d",
    "conv3d",
    "convolution",
    "_convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
def _contracted(step: Step) -> Any:
    return step.run(**{k: 1 for k in ("alpha", "beta") if k in step.args})


@INFLUENCES.register("sum", "mean", "nansum", "nanmean", "amax", "amin")
def _reduced(step: Step) -> Any:
    x = step.args["self"]
    return x.sum(reduced_dims(step.node, x.dim()), keepdim=bool(step.args.get("keepdim", False)))


@INFLUENCES.register(
    *[f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)],
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def _resampled(step: Step) -> Any:
    if step.node.multi:
        return None
    x = step.first
    rank = int(next(c for c in step.node.op.split(".")[1] if c.isdigit()))
    return x.sum(tuple(range(-rank, 0)), keepdim=True).expand(step.node.shape)


@INFLUENCES.register("batch_norm")
def _batch_norm(step: Step) -> Any:
    x, mean = step.args["input"], step.args.get("running_mean")
    if step.args.get("training") or mean is None:
        x, mean = _spread(x, [d for d in range(x.dim()) if d != 1]), None
    # γ (x − μ) / σ + β: a zero input gives zero only if μ and β are zero
    shift = 0.0 if mean is None else _on_channels(mean, x)
    bias = step.args.get("bias")
    return (x + shift) * _on_channels(step.args.get("weight"), x) + (0.0 if bias is None else _on_channels(bias, x))


@INFLUENCES.register("group_norm", "instance_norm")
def _group_norm(step: Step) -> Any:
    x = step.args["input"]
    if step.args.get("use_input_stats") is False:
        return None
    groups = int(step.args.get("num_groups", x.shape[1]))
    y = _spread(x.reshape(x.shape[0], groups, -1), [2]).reshape(x.shape)
    bias = step.args.get("bias")
    return y * _on_channels(step.args.get("weight"), x) + (0.0 if bias is None else _on_channels(bias, x))


@INFLUENCES.register("layer_norm", "rms_norm")
def _layer_norm(step: Step) -> Any:
    x, weight, bias = step.args["input"], step.args.get("weight"), step.args.get("bias")
    y = _spread(x, range(-len(step.args["normalized_shape"]), 0))
    return y * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)


@INFLUENCES.register("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(step: Step) -> Any:
    return 1 + _spread(step.args["self"], [int(step.args["dim"])])


@INFLUENCES.register("scaled_dot_product_attention")
def _attention(step: Step) -> Any:
    # (B, H, T, D): each query attends to every value of its head; queries and keys matter if the head has values
    query, key, value, mask = (step.args.get(k) for k in ("query", "key", "value", "attn_mask"))
    if query is None or key is None or value is None:
        return None
    if step.args.get("enable_gqa"):
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    weights = 1 + (query.sum(-2, keepdim=True) * key.sum(-2, keepdim=True)).sum(-1, keepdim=True)
    if mask is not None:
        weights = weights + mask.sum((-2, -1), keepdim=True)
    return (value.sum(-2, keepdim=True) * weights).expand(step.node.shape)


@INFLUENCES.register("embedding")
def _embedded(step: Step) -> Any:
    return step.args["weight"].sum(0).expand(step.node.shape)


@INFLUENCES.register("glu")
def _gated(step: Step) -> Any:
    first, second = step.args["self"].chunk(2, int(step.args["dim"]))
    return first * (1 + second)


@INFLUENCES.register("prelu")
def _prelu(step: Step) -> Any:
    x, weight = step.args["self"], step.args["weight"]
    return x * (1 + (weight if weight.numel() == 1 or x.dim() < 2 else _on_channels(weight, x)))


@INFLUENCES.register("hardswish")
def _hard_swish(step: Step) -> Any:
    return step.first
