"""The cut of a network by a plan together with its proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from prunus.errors import CaptureError, VerifyError
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.surgery.cut import cut_with_record
from prunus.surgery.proving.verify import Check, verify
from prunus.surgery.record import Surgery


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut network, its plan, the record of its surgery, and the proof; ``check`` is None where none was requested."""

    model: nn.Module
    plan: Plan
    surgery: Surgery
    check: Check | None


def cut_proved(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    prove: bool = True,
    mode: str = "hybrid",
) -> Cut:
    """Cut a copy of a network and compare it with the masked original.

    Args:
        model: the network of ``coupling``; it is left untouched.
        coupling: the coupling of ``model``.
        plan: the plan.
        example_inputs: one call of ``model``.
        seed: the seed of the noise of the proof.
        prove: whether to verify.
        mode: as in `cut_with_record`.

    Where a forward cannot be kept under the plan, for a reason that the analysis missed, forwards are rewritten;
    ``surgery.spliced`` names them. Where the user's code runs an op that no output needs and that fails on the cut
    network, the edited program becomes the forward of the whole.

    Raises:
        PlanError: the plan was made for another model.
        VerifyError: the cut network differs from the masked original; nothing is returned.
    """
    try:
        small, surgery = cut_with_record(model, coupling, plan, example_inputs, mode=mode)
        same = surgery.same_program
        check = verify(model, small, coupling, plan, example_inputs, seed=seed, same_program=same) if prove else None
    except (CaptureError, VerifyError) as error:
        if coupling.forward is None:
            if mode == "graph" or not getattr(error, "failed", False):
                raise
            return cut_proved(model, coupling, plan, example_inputs, seed=seed, prove=prove, mode="graph")
        # A forward could not be kept under this plan after all: it is rewritten, and the result names it.
        bare = couple(coupling.graph, **coupling.options)
        return cut_proved(model, bare, plan, example_inputs, seed=seed, prove=prove)
    return Cut(small, plan, surgery, check)
