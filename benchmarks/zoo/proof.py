"""Prove several cuts of one model: what the original and its masked form compute is run once for all of them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.cost.price import cost_model
from prunus.graph.capture import capture, unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.graph.interpreter import run
from prunus.plans import Plan
from prunus.surgery.proving.bisect_difference import first_divergence, wrong_tensor
from prunus.surgery.proving.proof_run import Trial, relative_error, trial
from prunus.surgery.proving.verify import Check
from prunus.surgery.tensors import cut_tensors

Tensors = list[torch.Tensor]


@dataclass(slots=True)
class Prover:
    """The references of one model; see `prunus.surgery.proving.verify.compare_models`, whose judgement it repeats.

    Args:
        model: the original.
        coupling: its analysis.
        inputs: of the original.
        dtype: float64, or float32 where the model is too large.
    """

    model: nn.Module
    coupling: Coupling
    inputs: Any
    dtype: torch.dtype = torch.float64
    _whole: Any = None
    _trial: Trial | None = None

    def masked(self, plan: Plan) -> tuple[Trial, Tensors, float]:
        """Return a trial of a plan, the masked original's outputs, and how far they are from the uncut one's."""
        try:
            return self._masked(plan)
        except RuntimeError as error:
            if self.dtype is not torch.float64 or "not implemented for 'Double'" not in str(error):
                raise
            self.dtype, self._trial = torch.float32, None
            return self._masked(plan)

    def _masked(self, plan: Plan) -> tuple[Trial, Tensors, float]:
        if self._trial is None:
            it = trial(self.model, self.coupling, plan, self.inputs, dtype=self.dtype)
            with it.computing():
                self._whole = run(self.coupling.graph, it.values, it.inputs, dtype=self.dtype)
            self._trial = it
        # Its inputs serve every plan: no plan of the zoo cuts a vocabulary.
        it = dataclasses.replace(self._trial, plan=plan)
        outputs = it.masked()
        return it, outputs, relative_error(it.kept_outputs(self._whole), outputs)

    def judge(self, small: nn.Module, reference: tuple[Trial, Tensors, float]) -> dict[str, Any]:
        """Return whether a cut model computes what the masked original computes, at the predicted price."""
        start = time.perf_counter()
        it, masked, change = reference
        predicted = cost_model(self.coupling).price(it.plan.axes)
        counted = cost_model(couple(capture(small, self.inputs))).price()
        tensors = cut_tensors(unwrap(self.model), self.coupling, it.plan)
        equal = wrong_tensor(small, self.coupling.graph, tensors) is None
        error = relative_error(it.cut(it.twin(small)), masked)
        if not any(t.is_floating_point() or t.is_complex() for t in masked):
            parted = first_divergence(it)
            error = max(error, 0.0 if parted is None else parted.error)
        return {
            "verified": Check(error, change, equal, it.dtype).ok and change > 1e-6,
            "error": float(f"{error:.2e}"),
            "change": float(f"{change:.2e}"),
            "values_equal": equal,
            "price_exact": predicted == counted,
            "counted": None if predicted == counted else [str(predicted), str(counted)],
            "verify_s": round(time.perf_counter() - start, 3),
        }
