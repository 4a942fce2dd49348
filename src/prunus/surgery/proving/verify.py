"""Prove a cut: compare the cut model with the masked original, on perturbed constants, in float64."""

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
from prunus.surgery.proving.bisect_difference import explain, one_line, wrong_tensor
from prunus.surgery.proving.check import ROUNDED, TOLERANCE, Check
from prunus.surgery.proving.gradients import compare_gradients, gradient_error
from prunus.surgery.proving.proof import Proof, inner_error, needs_float32, prove
from prunus.surgery.proving.proof_run import perturbed, relative_error, trial
from prunus.surgery.proving.reference import masked_tensors, reference_overrides
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

    The reference runs the captured graph with every removed slice at zero and norms over kept positions. Both run in
    float64 with reset seeds. All constants are perturbed first (value + 0.1 · noise), so that zeros hide no difference.
    If the forwards are the user's own, both are also compared at two more batch sizes, and at another length or image
    size.

    Args:
        model: the original.
        small: the cut model.
        coupling: the analysis of the original.
        plan: the plan of the cut.
        example_inputs: inputs of the original.
        seed: seed of the noise.
        gradients: compare the gradients of the parameters too; costs a backward of both.
        same_program: the captured cut model equals the edited program on the example inputs, op by op; smaller inputs
            may then replace them if a forward takes any size.

    Raises:
        VerifyError: they differ by more than the tolerance, or a tensor is not the slice that it should be; the message
            names the first node or module that differs from the reference.
    """
    if coupling.forward is None:
        proof = Proof(_compared(model, small, coupling, plan, example_inputs, seed, torch.float64, gradients))
    else:
        proof = prove(model, small, coupling, plan, example_inputs, seed=seed, whole=gradients or not same_program)
    check = proof.check
    if check.ok and gradients and coupling.forward is not None:
        difference = gradient_error(trial(model, coupling, plan, example_inputs, seed=seed, dtype=check.dtype), small)
        check = replace(check, gradient_error=None if difference is None else difference.error)
    if check.ok:
        return check
    if proof.at:
        on_example = _compared(model, small, coupling, plan, example_inputs, seed, torch.float64, gradients)
        if on_example.ok:
            raise VerifyError(_message_at_size(proof, small))
        check = on_example
    error = VerifyError(_message(check, model, small, coupling, plan, example_inputs, seed))
    error.failed = bool(check.failure)
    raise error


def _message_at_size(proof: Proof, small: nn.Module) -> str:
    failure = f" ({proof.check.failure})" if proof.check.failure else ""
    return (
        f"The cut {type(unwrap(small)).__name__} computes what the masked original computes on the example inputs, but "
        f"not at {proof.at}: relative error {proof.check.error:.2e}{failure}, allowed {proof.check.tolerance:.0e}. A "
        "number in its code was made for one size; freeze the axes that it counts, or use forward='rewrite'."
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
    """Compare as `verify` does, and return the check whatever it says.

    ``dtype`` float32 halves the memory and rounds more; it is also used if an op of the model has no float64.
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
    difference = gradient_error(it, small) if gradients else None
    return Check(
        max(error_of_outputs, inner_error(it, masked)),
        change,
        equal,
        it.dtype,
        gradient_error=None if difference is None else difference.error,
    )


def _message(
    check: Check, model: nn.Module, small: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, seed: int
) -> str:
    model, small = unwrap(model), unwrap(small)
    it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=check.dtype)
    end = "Please report this model; nothing was changed."
    if check.values_equal and check.error <= check.tolerance:
        difference = gradient_error(it, small)
        at = "" if difference is None else f", first of all at {difference.tensor!r}"
        return (
            f"The cut {type(small).__name__} computes what the masked original computes, but its gradients differ: "
            f"relative error {check.gradient_error:.2e}{at}, allowed {check.tolerance:.0e}. {end}"
        )
    what = "differs from" if check.values_equal else "does not hold the tensors of"
    size = f"it fails with {check.failure}" if check.failure else f"relative error {check.error:.2e}"
    try:
        where = explain(it, small, example_inputs, cut_tensors(model, coupling, plan))
    except Exception as error:  # a failed search must not hide the failed check
        where = f"The place of the difference could not be found ({one_line(error)})."
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
