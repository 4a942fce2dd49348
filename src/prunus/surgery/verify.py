"""Prove a cut: the cut model against the masked original, on perturbed constants, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import VerifyError
from prunus.graph.capture import preserved, split_inputs, unwrap
from prunus.graph.coupling import Coupling, Keep
from prunus.graph.ir import Graph, Node, Ref
from prunus.graph.recorder import named_tensors
from prunus.graph.rules.flow import base_name, positive
from prunus.graph.rules.reduction import STATISTIC_OPS, reduced_dims
from prunus.graph.run import Override, flat_inputs, run
from prunus.plans import Plan
from prunus.surgery.tensors import slice_tensors
from prunus.surgery.precision import computing_in

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Check:
    """The proof of a cut.

    Attributes:
        error: largest relative difference ‖cut − masked‖∞ / ‖masked‖∞ over the outputs, float64.
        change: the same between masked and uncut: near zero would mean that the check proves nothing.
        values_equal: the cut model's tensors are exactly the slices of the original's.
        tolerance: what ``error`` may be.
    """

    error: float
    change: float
    values_equal: bool
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        """Whether masked and cut agree."""
        return self.error <= self.tolerance and self.values_equal

    def __str__(self) -> str:
        word = "ok" if self.ok else "FAILED"
        return f"masked ≡ cut: {word}, relative error {self.error:.1e} (allowed {self.tolerance:.0e})"


def verify(
    model: nn.Module, small: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, seed: int = 0
) -> Check:
    """Compare a cut model with the masked original.

    The reference runs the captured graph with every removed slice at zero, norms taken over the kept positions.
    All constants are perturbed first (value + 0.1 · noise) so that zeros hide nothing, in float64, seeds reset.

    Raises:
        VerifyError: they differ by more than the tolerance, or a tensor is not the slice it should be.
    """
    check = compare_models(model, small, coupling, plan, example_inputs, seed=seed)
    if not check.ok:
        what = "differs from" if check.values_equal else "does not hold the tensors of"
        raise VerifyError(
            f"The cut {type(small).__name__} {what} the masked original: relative error {check.error:.2e}, "
            f"allowed {check.tolerance:.0e}. Please report this model; nothing was changed."
        )
    return check


def compare_models(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Check:
    """Measure a cut without judging it; see `verify`. ``dtype`` float32 halves the memory and rounds more."""
    model, graph = unwrap(model), coupling.graph
    args, kwargs = split_inputs(example_inputs)
    inputs = [_widen(t.detach(), dtype) for t in flat_inputs(graph, args, kwargs)]
    named = named_tensors(model)
    full = {n: named[n].detach() for n, i in graph.tensors.items() if i.kind != "constant"}
    full |= dict(graph.constants)
    sliced = slice_tensors(full, coupling, plan)
    equal = _holds(small, graph, sliced)
    noisy = perturbed(full, graph, seed, dtype)
    with computing_in(dtype):
        uncut = _leaves(_seeded(lambda: run(graph, noisy, inputs, dtype=dtype), seed))
        reference = _leaves(_seeded(lambda: _masked_run(coupling, plan, noisy, inputs, dtype), seed))
    twin = _twin(small, graph, slice_tensors(noisy, coupling, plan), dtype)
    wide_args, wide_kwargs = pytree.tree_map_only(torch.Tensor, lambda t: _widen(t, dtype), (args, kwargs))
    with preserved(twin), computing_in(dtype):
        got = _leaves(_seeded(lambda: twin(*wide_args, **wide_kwargs), seed))
    return Check(_relative(got, reference), _relative(uncut, reference), equal)


def _masked_run(
    coupling: Coupling,
    plan: Plan,
    values: Mapping[str, torch.Tensor],
    inputs: list[torch.Tensor],
    dtype: torch.dtype,
) -> Any:
    masked = masked_tensors(values, coupling, plan)
    with torch.no_grad():
        return run(coupling.graph, masked, inputs, dtype=dtype, override=reference_overrides(coupling, plan))


def masked_tensors(
    values: Mapping[str, torch.Tensor], coupling: Coupling, plan: Plan
) -> dict[str, torch.Tensor]:
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


def reference_overrides(coupling: Coupling, plan: Plan) -> dict[str, Override]:
    """Return the ops that must look at kept positions only, and the additions that lose an operand."""
    overrides: dict[str, Override] = {}
    for node in coupling.graph.nodes:
        if base_name(node.op) in _STATISTIC and node.op.startswith("aten."):
            wrapped = _gathered(coupling, plan.axes, node)
            if wrapped is not None:
                overrides[node.name] = wrapped
    for drop in plan.drops:
        overrides[drop.join] = _without_operand(drop.operand)
    return overrides


_STATISTIC = frozenset(
    (*STATISTIC_OPS, "layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm", "max", "min",
     "native_layer_norm")
)  # fmt: skip


def _without_operand(operand: int) -> Override:
    def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = list(args)
        values[operand] = torch.zeros_like(values[operand])
        if operand == 0 and function.__name__.split(".")[0].endswith("_"):
            return args[0].zero_().add_(args[1])
        return function(*values, **kwargs)

    return apply


def _gathered(coupling: Coupling, keep: Keep, node: Node) -> Override | None:
    """Run a statistic op on the kept positions and scatter the result back among zeros."""
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
    gone = {positive(d, rank) for d in reduced_dims(node, rank)}
    reduced = {d: i for d, i in index.items() if d in gone}
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


def perturbed(
    values: Mapping[str, torch.Tensor], graph: Graph, seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Return tensors in a wide dtype with noise of 0.1 (relative for large values); variances stay positive, integers stay."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in values.items():
        if not value.is_floating_point() or graph.tensors[name].kind == "constant":
            out[name] = value
            continue
        wide = value.to(dtype)
        noise = torch.randn(value.shape, generator=generator, dtype=dtype).to(value.device)
        constant = value.numel() > 1 and bool((value == value.reshape(-1)[0]).all())
        if value.dim() <= 1 or constant or graph.tensors[name].kind == "buffer":
            positive_only = bool((wide >= 0).all())
            wide = wide + 0.1 * noise
            wide = wide.abs() + 1e-3 if positive_only and graph.tensors[name].kind == "buffer" else wide
        out[name] = wide
    return out


def _twin(small: nn.Module, graph: Graph, values: Mapping[str, torch.Tensor], dtype: torch.dtype) -> nn.Module:
    twin = copy.deepcopy(unwrap(small)).to(dtype)
    with torch.no_grad():
        for name, tensor in named_tensors(twin).items():
            value = values.get(graph.aliases.get(name, name))
            if value is not None:
                tensor.copy_(value)
    return twin


def _holds(small: nn.Module, graph: Graph, sliced: Mapping[str, torch.Tensor]) -> bool:
    for name, tensor in named_tensors(unwrap(small)).items():
        expected = sliced.get(graph.aliases.get(name, name))
        if expected is not None and not (
            tensor.shape == expected.shape and torch.equal(tensor.detach(), expected.to(tensor.dtype))
        ):
            return False
    return True


def _seeded(call: Callable[[], Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.no_grad():
            return call()


def _leaves(value: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def _widen(tensor: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _relative(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    if len(got) != len(expected):
        return float("inf")
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel() == 0:
            continue
        difference = (a.to(torch.float64) - b.to(torch.float64)).abs().max()
        scale = b.to(torch.float64).abs().max().clamp_min(1e-12)
        value = float(difference / scale)
        worst = max(worst, value if value == value else float("inf"))
    return worst
