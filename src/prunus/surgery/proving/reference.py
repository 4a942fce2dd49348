"""The reference of a proof: the original program with removed units at zero and averages over kept positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from prunus.graph.coupling import Coupling, Keep
from prunus.graph.interpreter import Override, keyword_only, run
from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.rules.context import base_name, positive
from prunus.graph.rules.reduction import STATISTIC_OPS, reduced_dims
from prunus.plans import Plan


def masked_run(
    coupling: Coupling,
    plan: Plan,
    masked: Mapping[str, torch.Tensor],
    inputs: list[torch.Tensor],
    dtype: torch.dtype,
) -> Any:
    """Run the original program on tensors of `masked_tensors`; sums and averages see kept positions only."""
    with torch.no_grad():
        return run(
            coupling.graph,
            masked,
            inputs,
            dtype=dtype,
            override=reference_overrides(coupling, plan),
            observe=lambda node, result: without_debris(coupling, plan.axes, node, result),
        )


def without_debris(coupling: Coupling, keep: Keep, node: Node, result: Any) -> Any:
    """Zero values that are not finite at removed positions: 0/0 there (a rate, a norm of a zero row) has no meaning.

    Returns None if nothing had to be zeroed.
    """
    if not isinstance(result, torch.Tensor) or not result.is_floating_point() or bool(result.sum().isfinite()):
        return None  # a finite sum implies finite values, and costs a third of testing each value
    removed = removed_positions(coupling, keep, Ref(node.name))
    debris = None if removed is None else removed.to(result.device) & ~result.isfinite()
    return result.masked_fill(debris, 0.0) if debris is not None and bool(debris.any()) else None


def masked_tensors(values: Mapping[str, torch.Tensor], coupling: Coupling, plan: Plan) -> dict[str, torch.Tensor]:
    """Return the tensors with every removed unit and masked weight at zero, shapes unchanged."""
    out = {}
    for name, value in values.items():
        if name in plan.masks:
            value = value * torch.from_numpy(np.ascontiguousarray(plan.masks[name])).to(value.device, value.dtype)
        for dim, expr in enumerate(coupling.tensors[name]):
            mask = coupling.mask(expr, plan.axes)
            if not mask.all():
                shape = [1] * value.dim()
                shape[dim] = len(mask)
                value = value * torch.from_numpy(mask).to(value.device).reshape(shape).to(value.dtype)
        out[name] = value
    return out


def zero_removed_(tensor: torch.Tensor, name: str, coupling: Coupling, plan: Plan) -> None:
    """Zero one tensor in place, as `masked_tensors` does in a copy."""
    mask = plan.masks.get(name)
    if mask is not None:
        tensor.mul_(torch.from_numpy(np.ascontiguousarray(mask)).to(tensor.device, tensor.dtype))
    for dim, expr in enumerate(coupling.tensors[name]):
        kept = coupling.mask(expr, plan.axes)
        if not kept.all():
            tensor.index_fill_(dim, torch.from_numpy(np.flatnonzero(~kept)).to(tensor.device), 0)


def reference_overrides(coupling: Coupling, plan: Plan) -> dict[str, Override]:
    """Return overrides for ops that must see kept positions only, and for additions that lose an operand."""
    overrides: dict[str, Override] = {}
    read = {ref for node in coupling.graph.nodes for ref in refs_in(node.args)}
    for node in coupling.graph.nodes:
        if node.op == "aten.max.dim" and Ref(node.name, 1) in read:
            wrapped = _out_of_reach(coupling, plan.axes, node)
        elif base_name(node.op) in STATISTIC and node.op.startswith("aten."):
            wrapped = _gathered(coupling, plan.axes, node)
        elif base_name(node.op) in CONTRACTIONS and node.op.startswith("aten."):
            wrapped = _zeroed(coupling, plan.axes, node)
        elif base_name(node.op) in _CHOICES and node.op.startswith("aten."):
            wrapped = _out_of_reach(coupling, plan.axes, node)
        else:
            continue
        if wrapped is not None:
            overrides[node.name] = wrapped
    for drop in plan.drops:
        overrides[drop.join] = _without_operand(drop.operand)
    return overrides


STATISTIC = frozenset(
    (
        *STATISTIC_OPS,
        "layer_norm",
        "rms_norm",
        "group_norm",
        "batch_norm",
        "instance_norm",
        "max",
        "min",
        "native_layer_norm",
    )
)


CONTRACTIONS = frozenset(
    (
        "sum",
        "nansum",
        "matmul",
        "mm",
        "bmm",
        "baddbmm",
        "addbmm",
        "dot",
        "einsum",
        "linalg_vector_norm",
        "norm",
        "cumsum",
        "cosine_similarity",
        "pairwise_distance",
        "cdist",
        "count_nonzero",
        "scaled_dot_product_attention",
    )
)


# The ops that a router applies to the scores of its experts.
_CHOICES = frozenset(("softmax", "_softmax", "log_softmax", "_log_softmax", "topk", "argmax"))


def _out_of_reach(coupling: Coupling, keep: Keep, node: Node) -> Override | None:
    """Put −∞ at the removed positions of the scores, so that they get no share and are never chosen."""
    dims, dim = coupling.values[next(refs_in(node.args))], node.get("dim", -1)
    mask = coupling.mask(dims[dim], keep) if isinstance(dim, int) and dims else np.ones(1, bool)
    if mask.all():
        return None
    shape = [1] * len(dims)
    shape[dim] = len(mask)
    removed = torch.from_numpy(~mask).reshape(shape)

    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scores, *rest = args
        lowest = float("-inf") if scores.is_floating_point() else torch.iinfo(scores.dtype).min
        return function(scores.masked_fill(removed.to(scores.device), lowest), *rest, **kwargs)

    return apply


def _zeroed(coupling: Coupling, keep: Keep, node: Node) -> Override | None:
    """Put zeros at the removed positions of every operand, so that f(0) ≠ 0 (a sigmoid) does not enter a sum."""
    operands = {key: [removed_positions(coupling, keep, r) for r in refs_in(value)] for key, value in node.args.items()}
    if all(removed is None for masks in operands.values() for removed in masks):
        return None
    keyword = keyword_only(node.op)
    places = [key for key in node.args if key not in keyword]

    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        clean = [_zero_at(value, operands[key]) for key, value in zip(places, args, strict=False)]
        return function(*clean, **{key: _zero_at(value, operands[key]) for key, value in kwargs.items()})

    return apply


def _zero_at(value: Any, removed: list[torch.Tensor | None]) -> Any:
    """Put zeros at removed positions of the tensors of one argument; a tensor without a mask is unchanged."""
    masks = iter(removed)

    def clean(tensor: torch.Tensor) -> torch.Tensor:
        mask = next(masks, None)
        return tensor if mask is None else tensor.masked_fill(mask.to(tensor.device), 0)

    return pytree.tree_map_only(torch.Tensor, clean, value)


def removed_positions(coupling: Coupling, keep: Keep, ref: Ref) -> torch.Tensor | None:
    """Return a mask of the removed positions of a value, broadcastable to it; None if it loses none."""
    masks = [coupling.mask(expr, keep) for expr in coupling.values[ref]]
    if all(m.all() for m in masks):
        return None
    removed = torch.zeros((), dtype=torch.bool)
    for dim, mask in enumerate(masks):
        if not mask.all():
            shape = [1] * len(masks)
            shape[dim] = len(mask)
            removed = removed | torch.from_numpy(~mask).reshape(shape)
    return removed


def _without_operand(operand: int) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = list(args)
        values[operand] = torch.zeros_like(values[operand])
        if operand == 0 and function.__name__.split(".")[0].endswith("_"):
            return args[0].zero_().add_(args[1])
        return function(*values, **kwargs)

    return apply


def _gathered(coupling: Coupling, keep: Keep, node: Node) -> Override | None:
    """Run a statistic op on the kept positions, and scatter its result into zeros."""
    ref = next(v for v in node.args.values() if isinstance(v, Ref))
    dims = coupling.values[ref]
    masks = {d: coupling.mask(e, keep) for d, e in enumerate(dims)}
    masks = {d: m for d, m in masks.items() if not m.all() and m.any()}
    if not masks:
        return None
    name, rank = base_name(node.op), len(dims)
    index = {d: torch.from_numpy(np.flatnonzero(m)) for d, m in masks.items()}
    if name in ("layer_norm", "rms_norm", "native_layer_norm"):
        first = rank - len(node.args["normalized_shape"])
        return _gathered_norm(index, first) if any(d >= first for d in index) else None
    if name == "group_norm":
        aux = coupling.aux[(node.name, "num_groups")]
        groups = coupling.kept(aux[0], keep)
        return _gathered_channels({1: index[1]}, groups) if 1 in index else None
    if name in ("batch_norm", "instance_norm"):
        reduced = {d: i for d, i in index.items() if d != 1}
        return _gathered_channels(reduced, None) if reduced else None
    if name in ("max", "min") and "other" in node.args:
        return None
    dims_reduced = {positive(d, rank) for d in reduced_dims(node, rank)}
    reduced = {d: i for d, i in index.items() if d in dims_reduced}
    return _gathered_reduction(reduced) if reduced else None


def _pick(value: torch.Tensor, index: Mapping[int, torch.Tensor], offset: int = 0) -> torch.Tensor:
    for d, i in index.items():
        value = value.index_select(d - offset, i.to(value.device))
    return value


def _put(whole: torch.Tensor, part: torch.Tensor, index: Mapping[int, torch.Tensor]) -> torch.Tensor:
    out = torch.zeros_like(whole, dtype=part.dtype)
    grid: list[Any] = [torch.arange(n) for n in whole.shape]
    for d, i in index.items():
        grid[d] = i
    out[torch.meshgrid(*grid, indexing="ij")] = part
    return out


def _gathered_norm(index: Mapping[int, torch.Tensor], first: int) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, _, *rest = args
        trailing = {d: i for d, i in index.items() if d >= first}
        small = _pick(x, trailing)
        own = [_pick(v, trailing, first) if isinstance(v, torch.Tensor) else v for v in rest]
        result = function(small, list(small.shape[first:]), *own, **kwargs)
        if isinstance(result, tuple):
            return (_put(x, result[0], trailing), *result[1:])
        return _put(x, result, trailing)

    return apply


def _gathered_channels(index: Mapping[int, torch.Tensor], groups: int | None) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, *rest = args
        small = _pick(x, index)
        if groups is not None:
            rest[0] = groups
            channel = {0: index[1]}
            rest = [_pick(v, channel) if isinstance(v, torch.Tensor) else v for v in rest]
        return _put(x, function(small, *rest, **kwargs), index)

    return apply


def _gathered_reduction(index: Mapping[int, torch.Tensor]) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(_pick(args[0], index), *args[1:], **kwargs)

    return apply
