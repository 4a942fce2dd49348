"""A masked copy of the user's module that takes any call: removed slices are zero, averages see kept positions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.coupling import Coupling, Keep
from prunus.graph.interpreter import Override, run
from prunus.graph.ir import Node, Ref, refs_in
from prunus.graph.overriding import Overriding, Place, Replacement, places, positional
from prunus.graph.partial_capture import twin_of
from prunus.graph.rules.context import base_name
from prunus.surgery.proving.proof_run import Trial, relative_error
from prunus.surgery.proving.reference import (
    CONTRACTIONS,
    STATISTIC,
    masked_tensors,
    reference_overrides,
    removed_positions,
    without_debris,
)

_SINGULAR = frozenset(
    ("sqrt", "rsqrt", "pow", "div", "reciprocal", "log", "norm", "linalg_vector_norm", "std", "acos", "asin", "atan2")
)
"""Ops that may have an infinite derivative at zero."""


@dataclass(frozen=True, slots=True)
class MaskedTwin:
    """A copy of the dense network that computes, in any call, what the cut network has to compute.

    Attributes:
        model: the copy; its removed slices are zero.
        overriding: the ops that see kept positions only, while the copy runs.
        trial: the source of its tensors.
    """

    model: nn.Module
    overriding: Overriding
    trial: Trial

    @contextlib.contextmanager
    def running(self, model: nn.Module | None = None) -> Iterator[nn.Module]:
        """Run calls of the twin, or of a copy of it, within this block; read `missed` after it."""
        chosen = self.model if model is None else model
        with self.overriding.over(chosen):
            yield chosen

    @property
    def missed(self) -> str:
        """The ops of the last calls that saw removed positions too; empty if there were none."""
        return "; ".join(list(self.overriding.missed)[:2])

    def mask_(self, model: nn.Module) -> None:
        """Zero the removed slices of a trained copy again; masked weights may grow, as in the cut network."""
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        known = {n: t.detach() for n, t in own.items() if n in self.trial.coupling.tensors}
        units = dataclasses.replace(self.trial.plan, masks={})
        with torch.no_grad():
            for name, value in masked_tensors(known, self.trial.coupling, units).items():
                if value is not known[name]:
                    own[name].copy_(value)


def masked_twin(
    model: nn.Module, captured: nn.Module, example_inputs: Any, parts: tuple[str, ...], it: Trial
) -> MaskedTwin:
    """Return the twin of a network under the plan of a trial.

    Args:
        model: the user's network.
        captured: the module that was captured: ``model``, or a module that calls its parts.
        example_inputs: inputs of ``captured``.
        parts: the submodules that were captured, if the whole network could not be.
        it: noisy tensors, inputs and plan.

    Raises:
        CaptureError: the program's ops cannot be matched to the network's own calls, or the twin and the masked program
            compute different outputs.
    """
    located = places(captured, it.coupling.graph, example_inputs)
    if located is None:
        raise CaptureError(
            f"the calls of {type(model).__name__} cannot be compared: the ops of its program "
            f"({it.coupling.graph.how}) cannot be matched to the ops that its modules run."
        )
    masked, observed = _masked_program(it)
    twin = MaskedTwin(
        it.holding(model, masked_tensors(it.values, it.coupling, it.plan)), _overriding(it, located, observed), it
    )
    called: nn.Module = twin_of(twin.model, parts) if parts else twin.model
    with twin.running(called):
        outputs = it.cut(called)
    refs = [leaf for leaf in it.coupling.graph.outputs if isinstance(leaf, Ref)]
    same = len(outputs) == len(refs)
    kept = [it.kept(tensor, it.coupling.values[ref]) for ref, tensor in zip(refs, outputs, strict=True)] if same else []
    error = relative_error(kept, masked)
    if twin.missed or not error <= (1e-5 if it.dtype is torch.float64 else 1e-3):
        raise CaptureError(
            f"the calls of {type(model).__name__} cannot be compared: its masked copy does not compute what the masked "
            f"program computes, relative error {error:.1e}{' (' + twin.missed + ')' if twin.missed else ''}."
        )
    return twin


_EXACT, _ROUNDED = 1e-9, 1e-5


@dataclass(slots=True)
class _Observed:
    """Observations of the masked program on the example inputs.

    Attributes:
        debris: nodes whose result is not finite at removed positions.
        active: contractions whose result at kept positions depends on values at removed positions.
    """

    debris: set[str]
    active: set[str]


def _masked_program(it: Trial) -> tuple[list[torch.Tensor], _Observed]:
    """Run the masked program once; return its outputs at kept positions, and observations of its ops."""
    coupling, keep, observed = it.coupling, it.plan.axes, _Observed(set(), set())
    overrides = reference_overrides(coupling, it.plan)

    def observe(node: Node, result: Any) -> Any:
        clean = without_debris(coupling, keep, node, result)
        if clean is not None:
            observed.debris.add(node.name)
        return clean

    def compared(override: Override) -> Override:
        def apply(node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            plain, result = function(*args, **kwargs), override(node, function, args, kwargs)
            both = [
                [it.kept(x, coupling.values[Ref(node.name, i)]) for i, x in enumerate(_tensors(value))]
                for value in (plain, result)
            ]
            if relative_error(*both) > (_EXACT if it.dtype is torch.float64 else _ROUNDED):
                observed.active.add(node.name)
            return result

        return apply

    wrapped = {
        name: compared(o) if base_name(coupling.graph.node(name).op) in CONTRACTIONS else o
        for name, o in overrides.items()
    }
    with it.computing():
        tensors = masked_tensors(it.values, coupling, it.plan)
        outputs = run(coupling.graph, tensors, it.inputs, dtype=it.dtype, override=wrapped, observe=observe)
        return it.kept_outputs(outputs), observed


def _tensors(value: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def _overriding(it: Trial, located: Mapping[str, Place], observed: _Observed) -> Overriding:
    """Return the ops to replace, by the places at which they run.

    A module that is called several times has one replacement for each of its ops. If its calls lose different units,
    no replacement fits, and `MaskedTwin.missed` names the op.
    """
    coupling, keep = it.coupling, it.plan.axes
    overrides = reference_overrides(coupling, it.plan)
    singular = {n.name for n in coupling.graph.nodes if base_name(n.op) in _SINGULAR and _lossy(coupling, keep, n)}
    chosen = {name for name in overrides.keys() | observed.debris | singular if name in located}
    nodes: dict[Place, list[Node]] = {}
    for node in coupling.graph.nodes:
        if node.name in located:
            nodes.setdefault(located[node.name], []).append(node)
    calls = Counter(call.path for call in coupling.graph.calls)
    replacements: dict[Place, Replacement] = {}
    needed: set[Place] = set()
    for place in {located[name] for name in chosen}:
        same = nodes[place]
        if any(
            n.name in overrides and (base_name(n.op) not in CONTRACTIONS or n.name in observed.active) for n in same
        ):
            needed.add(place)
        if len({_signature(coupling, keep, n) for n in same}) > 1:
            replacements[place] = lambda func, bound: NotImplemented
        else:
            node = next(n for n in same if n.name in chosen)
            debris = node.name in observed.debris
            replacements[place] = _replacement(coupling, keep, node, overrides.get(node.name), debris)
    always = frozenset(place for place in needed if len(nodes[place]) >= calls[place.path])
    suspects = frozenset(f"aten.{name}" for name in _AVERAGES)
    return Overriding(replacements, frozenset(needed), always, _suspect(coupling, keep), suspects)


# Batch norm averages over samples and positions, and max and min often compare two tensors.
_AVERAGES = STATISTIC - {"batch_norm", "instance_norm", "max", "min"}


def _lossy(coupling: Coupling, keep: Keep, node: Node) -> bool:
    return any(removed_positions(coupling, keep, r) is not None for r in refs_in(node.args))


def _signature(coupling: Coupling, keep: Keep, node: Node) -> tuple[Any, ...]:
    """Return the kept positions of an op's operands, in a form that can be compared."""
    return tuple(
        (key, tuple((d, m.tobytes()) for d, m in _cut_dims(coupling, keep, r).items()))
        for key, value in node.args.items()
        for r in refs_in(value)
    )


def _cut_dims(coupling: Coupling, keep: Keep, ref: Ref) -> dict[int, np.ndarray]:
    masks = {d: coupling.mask(e, keep) for d, e in enumerate(coupling.values[ref])}
    return {d: m for d, m in masks.items() if not m.all()}


def _replacement(coupling: Coupling, keep: Keep, node: Node, override: Override | None, debris: bool) -> Replacement:
    """Return a function that replaces a node, for arguments that have the cut dims of the program."""
    forms = {
        key: [
            (len(coupling.values[r]), {d: len(m) for d, m in _cut_dims(coupling, keep, r).items()}) for r in refs_in(v)
        ]
        for key, v in node.args.items()
    }
    removed_result = removed_positions(coupling, keep, Ref(node.name)) if debris else None
    removed = {
        key: [removed_positions(coupling, keep, r) for r in refs_in(v)]
        for key, v in node.args.items()
        if base_name(node.op) in _SINGULAR
    }

    def replace(func: Any, bound: dict[str, Any]) -> Any:
        if not all(_fits(bound[key], form) for key, form in forms.items()):
            return NotImplemented
        for key, masks in removed.items():
            for tensor, mask in zip(_tensors(bound[key]), masks, strict=False):
                _finite_gradient(tensor, mask)
        args, kwargs = positional(func, bound)
        result = func(*args, **kwargs) if override is None else override(node, func, args, kwargs)
        if removed_result is not None and isinstance(result, torch.Tensor):
            return result.masked_fill(removed_result.to(result.device) & ~result.isfinite(), 0.0)
        return result

    return replace


def _finite_gradient(tensor: torch.Tensor, removed: torch.Tensor | None) -> None:
    """Zero gradients that are not finite at removed positions (the slope of √0), so that none reaches kept ones."""
    if removed is not None and tensor.requires_grad:
        where = removed.to(tensor.device)
        tensor.register_hook(lambda g: g.masked_fill(where & ~g.isfinite(), 0))  # type: ignore[no-untyped-call]


def _fits(value: Any, form: list[tuple[int, dict[int, int]]]) -> bool:
    tensors = _tensors(value)
    if not any(sizes for _, sizes in form):
        return True
    return len(tensors) == len(form) and all(
        not sizes or (tensor.dim() == rank and all(tensor.shape[d] == n for d, n in sizes.items()))
        for tensor, (rank, sizes) in zip(tensors, form, strict=True)
    )


def cut_masks(coupling: Coupling, keep: Keep) -> dict[int, list[np.ndarray]]:
    """Return size of a dim → every mask by which a dim of that size is cut in the program."""
    exprs = {e for dims in (*coupling.values.values(), *coupling.tensors.values()) for e in dims}
    by_size: dict[int, dict[bytes, np.ndarray]] = {}
    for mask in (coupling.mask(e, keep) for e in exprs):
        if not mask.all():
            by_size.setdefault(len(mask), {})[mask.tobytes()] = mask
    return {size: list(masks.values()) for size, masks in by_size.items()}


def _suspect(coupling: Coupling, keep: Keep) -> Callable[[Any, dict[str, Any]], str]:
    """Return a function that detects an average over a cut axis outside the program, by the zeros in its operand."""
    masks = cut_masks(coupling, keep)

    def suspect(func: Any, bound: dict[str, Any]) -> str:
        tensor = next((v for v in bound.values() if isinstance(v, torch.Tensor)), None)
        if tensor is None or not any(n in masks for n in tensor.shape):
            return ""
        rank = tensor.dim()
        if "normalized_shape" in bound:
            averaged = range(rank - len(bound["normalized_shape"]), rank)
        elif "num_groups" in bound:
            averaged = range(1, 2)
        else:
            dim = bound.get("dim")
            dims = list(range(rank)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
            averaged = sorted(d % rank for d in dims)  # type: ignore[assignment]
        for d in averaged:
            for mask in masks.get(tensor.shape[d], ()):
                removed = tensor.detach().index_select(d, torch.from_numpy(np.flatnonzero(~mask)).to(tensor.device))
                if not bool(removed.any()) and bool(tensor.detach().any()):
                    return "averages over an axis that was cut, which the example call does not show"
        return ""

    return suspect
