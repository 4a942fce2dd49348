"""Prove a cut: the cut model against the masked original, on perturbed constants, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from prunus.errors import VerifyError
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.plans import Plan
from prunus.surgery.bisect_difference import explain, one_line, wrong_tensor
from prunus.surgery.check import ROUNDED, TOLERANCE, Check
from prunus.surgery.gradients import compare_gradients, gradient_error
from prunus.surgery.proof import Proof, inner_error, needs_float32, prove
from prunus.surgery.proof_run import perturbed, relative_error, trial
from prunus.surgery.reference import masked_tensors, reference_overrides
from prunus.surgery.tensors import cut_tensors


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
    same_program: bool = False,
) -> Check:
    """Compare a cut model with the masked original.

    The reference runs the captured graph with every removed slice at zero, norms taken over the kept positions.
    All constants are perturbed first (value + 0.1 · noise) so that zeros hide nothing, in float64, seeds reset.
    Forwards that are the user's own are compared at two more batch sizes, and at another length or image size.

    Args:
        model: the original.
        small: the cut model.
        coupling: the analysis of the original.
        plan: what went.
        example_inputs: of the original.
        seed: of the noise.
        gradients: compare the gradients of the parameters too; costs a backward of both.
        same_program: the cut model was seen to run the edited program on the example inputs, op by op; smaller inputs
            may then stand for them where a forward takes any size.

    Raises:
        VerifyError: they differ by more than the tolerance, or a tensor is not the slice it should be; the message
            names the first node or module that parts from the reference.
    """
    if coupling.forward is None:
        found = Proof(_compared(model, small, coupling, plan, example_inputs, seed, torch.float64, gradients))
    else:
        found = prove(model, small, coupling, plan, example_inputs, seed=seed, whole=gradients or not same_program)
    check = found.check
    if check.ok and gradients and coupling.forward is not None:
        learnt = gradient_error(trial(model, coupling, plan, example_inputs, seed=seed, dtype=check.dtype), small)
        check = replace(check, gradient_error=None if learnt is None else learnt.error)
    if check.ok:
        return check
    if found.at:
        there = _compared(model, small, coupling, plan, example_inputs, seed, torch.float64, gradients)
        if there.ok:
            raise VerifyError(_message_elsewhere(found, small))
        check = there
    raise VerifyError(_message(check, model, small, coupling, plan, example_inputs, seed))


def _message_elsewhere(found: Proof, small: nn.Module) -> str:
    told = f" ({found.check.failure})" if found.check.failure else ""
    return (
        f"The cut {type(unwrap(small)).__name__} computes what the masked original computes on the example inputs, but "
        f"not at {found.at}: relative error {found.check.error:.2e}{told}, allowed {found.check.tolerance:.0e}. A "
        "number in its code was made for one size; hold the axes that it counts, or use forward='rewrite'."
    )


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
    return _compared(model, small, coupling, plan, example_inputs, seed, dtype, gradients)


def _compared(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    seed: int,
    dtype: torch.dtype,
    gradients: bool,
) -> Check:
    equal = wrong_tensor(small, coupling.graph, cut_tensors(unwrap(model), coupling, plan)) is None
    try:
        it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=dtype)
        uncut = it.uncut()
        it = it.zero_()
        masked = it.masked()
    except RuntimeError as error:
        if dtype is not torch.float64 or not needs_float32(error):
            raise
        return _compared(model, small, coupling, plan, example_inputs, seed, torch.float32, gradients)
    change = relative_error(uncut, masked)
    try:
        error_of_outputs = relative_error(it.cut(it.twin(small)), masked)
    except Exception as error:
        return Check(float("inf"), change, equal, it.dtype, failure=one_line(error))
    found = gradient_error(it, small) if gradients else None
    return Check(
        max(error_of_outputs, inner_error(it, masked)),
        change,
        equal,
        it.dtype,
        gradient_error=None if found is None else found.error,
    )


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


__all__ = [
    "ROUNDED",
    "TOLERANCE",
    "Check",
    "compare_gradients",
    "compare_models",
    "masked_tensors",
    "perturbed",
    "reference_overrides",
    "verify",
]
