"""Compare the gradients of a cut model and of the masked original: one backward of the same scalar on both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.foundation.memory_format import sound_gradients
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import run
from prunus.graph.ir import Node, Ref
from prunus.plans import Plan
from prunus.surgery.proving.proof_run import Tensors, Trial, relative_error, trial
from prunus.surgery.proving.reference import masked_tensors, reference_overrides, removed_positions, without_debris

_SMALL = 1e-6


@dataclass(frozen=True, slots=True)
class Gradients:
    """The difference between the gradients of a cut model and those of the masked original.

    Attributes:
        error: largest relative difference over the parameters.
        tensor: the parameter that has this difference.
    """

    error: float
    tensor: str


def compare_gradients(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Gradients | None:
    """Compare the gradients of a cut model with the kept slices of the masked original's.

    error = max_p ‖∂L/∂p′ − (∂L/∂p)_kept‖∞ / max(‖(∂L/∂p)_kept‖∞, 10⁻⁶ · max_q ‖∂L/∂q‖∞),  L = Σ ⟨r, output⟩

    r is a fixed random projection of the outputs; both networks are in eval mode, on the noisy tensors of `verify`.
    Gradients of masked weights are compared too. A forward that computes under ``torch.no_grad()`` differs here,
    because a graph does not show that.

    Args:
        model: the original.
        small: the cut model.
        coupling: the analysis of the original.
        plan: the plan of the cut.
        example_inputs: inputs of the original.
        seed: seed of the noise and of the projection.
        dtype: float type of both computations.

    Returns:
        None if no output is a differentiable function of a parameter (integer outputs).
    """
    return gradient_error(trial(model, coupling, plan, example_inputs, seed=seed, dtype=dtype), small)


def gradient_error(it: Trial, small: nn.Module) -> Gradients | None:
    """Compare gradients on the tensors and inputs of a trial; see `compare_gradients`."""
    with _differentiable(it), sound_gradients(it.values, small):
        expected = _masked_gradients(it)
        if expected is None:
            return None
        got = _cut_gradients(it, it.twin(small))
    if got is None:
        return Gradients(float("inf"), next(iter(expected)))
    expected = {n: g for n, g in expected.items() if n in got}  # removed parameters have no gradient
    scale = max(float(g.abs().max()) if g.numel() else 0.0 for g in expected.values())
    errors = {n: relative_error([got[n]], [g], least=max(_SMALL * scale, 1e-12)) for n, g in expected.items()}
    worst = max(errors, key=lambda n: errors[n])
    return Gradients(errors[worst], worst)


def _masked_gradients(it: Trial) -> Tensors | None:
    """Return the gradients of the masked original's parameters at kept positions; None if there are none."""
    coupling, plan = it.coupling, it.plan
    leaves = {n: v.detach() for n, v in masked_tensors(it.values, coupling, plan).items()}
    for name, value in leaves.items():
        if coupling.graph.tensors[name].kind == "parameter" and value.is_floating_point():
            leaves[name] = value.clone().requires_grad_()

    def observe(node: Node, result: Any) -> Any:
        clean = without_debris(coupling, plan.axes, node, result)
        _zero_debris(coupling, plan, node, result if clean is None else clean)
        return clean

    with it.computing(gradients=True):
        outputs = it.kept_outputs(
            run(
                coupling.graph,
                leaves,
                it.inputs,
                dtype=it.dtype,
                override=reference_overrides(coupling, plan),
                observe=observe,
            )
        )
    gradients = _backward(it, outputs, {n: v for n, v in leaves.items() if v.requires_grad})
    return None if gradients is None else {n: it.kept(g, coupling.tensors[n]) for n, g in gradients.items()}


def _zero_debris(coupling: Coupling, plan: Plan, node: Node, result: Any) -> None:
    """Zero gradients that are not finite at removed positions: 0/0 there must not reach kept positions."""
    for index, value in enumerate(result if isinstance(result, (tuple, list)) else [result]):
        if not isinstance(value, torch.Tensor) or not value.requires_grad:
            continue
        removed = removed_positions(coupling, plan.axes, Ref(node.name, index))
        if removed is not None:
            where = removed.to(value.device)
            value.register_hook(  # type: ignore[no-untyped-call]
                lambda g, where=where: g.masked_fill(where & ~g.isfinite(), 0)
            )


def _cut_gradients(it: Trial, twin: nn.Module) -> Tensors | None:
    aliases = it.coupling.graph.aliases
    parameters: Tensors = {aliases.get(n, n): p for n, p in twin.named_parameters() if p.is_floating_point()}
    try:
        return _backward(it, it.cut(twin, gradients=True), parameters)
    except RuntimeError:  # the forward writes into a parameter, or is not differentiable
        return None


def _backward(it: Trial, outputs: Sequence[torch.Tensor], leaves: Tensors) -> Tensors | None:
    """Return the gradient of every leaf; zeros if no output depends on it, None if no output depends on any leaf."""
    generator = torch.Generator().manual_seed(it.seed)
    total: torch.Tensor | None = None
    for output in outputs:
        value = torch.view_as_real(output) if output.is_complex() else output
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if value.is_floating_point() and value.requires_grad:
            finite = value.masked_fill(~value.isfinite(), 0)
            term = (weight.to(value.device, value.dtype) * finite).sum()
            total = term if total is None else total + term
    if total is None:
        return None
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), gradients, strict=True)}


@contextlib.contextmanager
def _differentiable(it: Trial) -> Iterator[None]:
    """Run a block without cuDNN, which has no backward for recurrent layers in eval mode."""
    with torch.backends.cudnn.flags(enabled=False) if it.device.type == "cuda" else contextlib.nullcontext():
        yield
