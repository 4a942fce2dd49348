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
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph, Ref
from prunus.graph.opening import opened_leaves
from prunus.graph.recorder import named_tensors
from prunus.graph.run import flat_inputs, run
from prunus.plans import Plan
from prunus.surgery.precision import computing_in
from prunus.surgery.reference import masked_run, masked_tensors, reference_overrides
from prunus.surgery.tensors import slice_tensors

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
        uncut = _kept(_seeded(lambda: run(graph, noisy, inputs, dtype=dtype), seed), coupling, plan)
        reference = _kept(_seeded(lambda: masked_run(coupling, plan, noisy, inputs, dtype), seed), coupling, plan)
    twin = _twin(small, graph, slice_tensors(noisy, coupling, plan), dtype)
    wide_args, wide_kwargs = pytree.tree_map_only(torch.Tensor, lambda t: _widen(t, dtype), (args, kwargs))
    with preserved(twin), computing_in(dtype):
        got = _leaves(_seeded(lambda: twin(*wide_args, **wide_kwargs), seed))
    return Check(_relative(got, reference), _relative(uncut, reference), equal)


def perturbed(
    values: Mapping[str, torch.Tensor], graph: Graph, seed: int, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Return tensors in a wide dtype with noise of 0.1; variances stay positive, integers and constants as they are."""
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
    return [x for x in opened_leaves(value) if isinstance(x, torch.Tensor)]


def _kept(value: Any, coupling: Coupling, plan: Plan) -> list[torch.Tensor]:
    """Return the output tensors without the positions that a cut removes from them (states; outputs not protected)."""
    refs = [leaf for leaf in coupling.graph.outputs if isinstance(leaf, Ref)]
    found = []
    for ref, tensor in zip(refs, _leaves(value), strict=True):
        for dim, expr in enumerate(coupling.values[ref]):
            mask = coupling.mask(expr, plan.axes)
            if not mask.all():
                tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))
        found.append(tensor)
    return found


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


__all__ = ["TOLERANCE", "Check", "compare_models", "masked_tensors", "perturbed", "reference_overrides", "verify"]
