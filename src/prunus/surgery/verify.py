"""Prove a cut: the cut model against the masked original, on perturbed constants, in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunus.errors import VerifyError
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.ordinary import in_ordinary_mode
from prunus.plans import Plan
from prunus.surgery.bisect import explain, first_divergence, one_line, wrong_tensor
from prunus.surgery.gradients import compare_gradients, gradient_error
from prunus.surgery.other_sizes import Resized, other_sizes
from prunus.surgery.reference import masked_tensors, reference_overrides
from prunus.surgery.tensors import cut_tensors
from prunus.surgery.trial import Trial, perturbed, relative_error, trial

TOLERANCE = 1e-5
"""What an error may be in float64."""
ROUNDED = 1e-4
"""What it may be where a check ran in a narrower type, which rounds."""


@dataclass(frozen=True, slots=True)
class Check:
    """The proof of a cut.

    Attributes:
        error: largest relative difference ‖cut − masked‖∞ / ‖masked‖∞ over the outputs.
        change: the same between masked and uncut: near zero would mean that the check proves nothing.
        values_equal: the cut model's tensors are exactly the slices of the original's.
        dtype: the float type in which both ran.
        gradient_error: the same over the gradients of the parameters; None where it was not asked for, or where no
            output has a gradient.
        failure: what the cut model raised instead of returning something.
        sizes: the other sizes of the inputs at which masked and cut were compared too; ``error`` is the largest.
    """

    error: float
    change: float
    values_equal: bool
    dtype: torch.dtype = torch.float64
    gradient_error: float | None = None
    failure: str = ""
    sizes: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """What ``error`` and ``gradient_error`` may be in this float type."""
        return TOLERANCE if self.dtype is torch.float64 else ROUNDED

    @property
    def ok(self) -> bool:
        """Whether masked and cut agree."""
        learns = self.gradient_error is None or self.gradient_error <= self.tolerance
        return self.error <= self.tolerance and self.values_equal and learns

    def __str__(self) -> str:
        word = "ok" if self.ok else "FAILED"
        gradients = "" if self.gradient_error is None else f", gradients {self.gradient_error:.1e}"
        kind = str(self.dtype).removeprefix("torch.")
        also = f", also at {', '.join(self.sizes)}" if self.sizes else ""
        return (
            f"masked ≡ cut: {word}, relative error {self.error:.1e}{gradients} in {kind} (allowed {self.tolerance:.0e})"
            f"{also}"
        )


@in_ordinary_mode
def verify(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    gradients: bool = False,
) -> Check:
    """Compare a cut model with the masked original.

    The reference runs the captured graph with every removed slice at zero, norms taken over the kept positions.
    All constants are perturbed first (value + 0.1 · noise) so that zeros hide nothing, in float64, seeds reset.

    Args:
        model: the original.
        small: the cut model.
        coupling: the analysis of the original.
        plan: what went.
        example_inputs: of the original.
        seed: of the noise.
        gradients: compare the gradients of the parameters too; costs a backward of both.

    Raises:
        VerifyError: they differ by more than the tolerance, or a tensor is not the slice it should be; the message
            names the first node or module that parts from the reference.
    """
    check, it, twin = _compared(model, small, coupling, plan, example_inputs, seed, torch.float64, gradients)
    if not check.ok or twin is None:
        raise VerifyError(_message(check, model, small, coupling, plan, example_inputs, seed))
    if coupling.forward is None:
        return check
    return _at_other_sizes(check, it, twin, other_sizes(unwrap(model), coupling, plan, example_inputs))


def _at_other_sizes(check: Check, it: Trial, twin: nn.Module, sizes: Iterable[Iterable[Resized]]) -> Check:
    """Compare again at other batch sizes and lengths: forwards that are the user's own take what they took.

    Raises:
        VerifyError: they differ there.
    """
    proved: list[str] = []
    error = check.error
    for choices in sizes:
        for other in choices:
            try:
                there = it.at(other.coupling, other.inputs)
                masked = there.masked()
            except Exception:
                continue  # the original does not run there
            try:
                found, told = relative_error(there.cut(twin), masked), ""
            except Exception as failure:
                found, told = float("inf"), f" ({one_line(failure)})"
            if not found <= check.tolerance:
                raise VerifyError(
                    f"The cut {type(twin).__name__} computes what the masked original computes on the example inputs, "
                    f"but not at {other.name}: relative error {found:.2e}{told}, allowed {check.tolerance:.0e}. A "
                    "number in its code was made for one size; hold the axes that it counts, or use forward='rewrite'."
                )
            error = max(error, found)
            proved.append(other.name)
            break
    return replace(check, error=error, sizes=tuple(proved))


def compare_models(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    gradients: bool = False,
) -> Check:
    """Measure a cut without judging it; see `verify`.

    ``dtype`` float32 halves the memory and rounds more; it is also used where an op of the model knows no float64.
    """
    return _compared(model, small, coupling, plan, example_inputs, seed, dtype, gradients)[0]


def _compared(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    seed: int,
    dtype: torch.dtype,
    gradients: bool,
) -> tuple[Check, Trial, nn.Module | None]:
    """Return the check, its trial, and the twin of the cut model that was run; None where it failed."""
    equal = wrong_tensor(small, coupling.graph, cut_tensors(unwrap(model), coupling, plan)) is None
    try:
        it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=dtype)
        uncut, masked = it.uncut(), it.masked()
    except RuntimeError as error:
        if dtype is not torch.float64 or "not implemented for 'Double'" not in str(error):
            raise
        it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=torch.float32)
        uncut, masked = it.uncut(), it.masked()
    change = relative_error(uncut, masked)
    try:
        twin = it.twin(small)
        error_of_outputs = relative_error(it.cut(twin), masked)
    except Exception as error:
        return Check(float("inf"), change, equal, it.dtype, failure=one_line(error)), it, None
    found = gradient_error(it, small) if gradients else None
    check = Check(
        max(error_of_outputs, _inner_error(it, masked)), change, equal, it.dtype,
        gradient_error=None if found is None else found.error,
    )  # fmt: skip
    return check, it, twin


def _inner_error(it: Trial, outputs: list[torch.Tensor]) -> float:
    """Return how far the values inside the edited graph are off, where the outputs are too coarse to tell."""
    if any(t.is_floating_point() or t.is_complex() for t in outputs):
        return 0.0
    parted = first_divergence(it)
    return 0.0 if parted is None else parted.error


def _message(
    check: Check, model: nn.Module, small: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, seed: int
) -> str:
    model, small = unwrap(model), unwrap(small)
    it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=check.dtype)
    end = "Please report this model; nothing was changed."
    if check.values_equal and check.error <= check.tolerance:
        found = gradient_error(it, small)
        at = "" if found is None else f", first of all at {found.tensor!r}"
        return (
            f"The cut {type(small).__name__} computes what the masked original computes, but its gradients differ: "
            f"relative error {check.gradient_error:.2e}{at}, allowed {check.tolerance:.0e}. {end}"
        )
    what = "differs from" if check.values_equal else "does not hold the tensors of"
    size = f"it fails with {check.failure}" if check.failure else f"relative error {check.error:.2e}"
    try:
        where = explain(it, small, example_inputs, cut_tensors(model, coupling, plan))
    except Exception as error:  # the search must not hide what was found
        where = f"Where could not be found out ({one_line(error)})."
    return (
        f"The cut {type(small).__name__} {what} the masked original: {size}, allowed {check.tolerance:.0e}. "
        f"{where} {end}"
    )


__all__ = ["ROUNDED", "TOLERANCE", "Check", "compare_gradients", "compare_models", "masked_tensors", "perturbed",
           "reference_overrides", "verify"]  # fmt: skip
