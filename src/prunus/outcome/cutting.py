"""Cut a network as a plan says and prove it: the one place where the two stand together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from prunus.errors import CaptureError, VerifyError
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.record import Surgery
from prunus.surgery.verify import Check, verify


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut network, how it was cut, and the proof; ``check`` is None where none was asked for."""

    model: nn.Module
    surgery: Surgery
    check: Check | None


def cut_proved(
    model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, seed: int = 0, prove: bool = True
) -> Cut:
    """Cut a copy of a network and compare it with the masked original.

    Args:
        model: what ``coupling`` was made from; untouched.
        coupling: its analysis.
        plan: what goes.
        example_inputs: one call of ``model``.
        seed: of the noise of the proof.
        prove: whether to verify.

    Where no forward can be kept under the plan, though the analysis had not seen why, forwards are rewritten;
    ``surgery.spliced`` names them.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut network differs from the masked original; nothing is returned.
    """
    try:
        small, surgery = cut_with_record(model, coupling, plan, example_inputs)
        same = surgery.same_program
        check = verify(model, small, coupling, plan, example_inputs, seed=seed, same_program=same) if prove else None
    except (CaptureError, VerifyError):
        if coupling.forward is None:
            raise
        # No forward could be kept under this plan after all: it is rewritten, and the result says so.
        bare = couple(coupling.graph, **coupling.options)
        return cut_proved(model, bare, plan, example_inputs, seed=seed, prove=prove)
    return Cut(small, surgery, check)
