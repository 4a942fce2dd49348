"""The networks that a call table compares: a dense network with its coupling and plan, and the cut one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.capture import split_inputs, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.recorder import named_tensors
from prunus.outcome.calls.pair import NotTaken, Pair
from prunus.plans import Plan
from prunus.surgery.proving.masked_twin import cut_masks, masked_twin
from prunus.surgery.proving.proof_run import trial
from prunus.surgery.record import Surgery

GIANT = 100_000_000
"""The number of parameters above which networks are compared in float32."""


@dataclass(slots=True)
class Subject:
    """A cut network, its dense network, and the plan and surgery between them.

    Attributes:
        dense: the user's network, untouched.
        inputs: one call of it.
        captured: the module that was captured: ``dense``, or a module that calls its parts.
        captured_inputs: one call of ``captured``.
        parts: the submodules that were captured, if the whole model could not be.
        coupling: the coupling of ``captured``.
        plan: the plan of the cut.
        model: the cut network.
        surgery: the record of the cut.
        seed: the seed of the noise.
        narrow: compare in float32 where no other type is requested.
        original: the user's network without the bridges of the plan; None where that is ``dense``.
    """

    dense: nn.Module
    inputs: Any
    captured: nn.Module
    captured_inputs: Any
    parts: tuple[str, ...]
    coupling: Coupling
    plan: Plan
    model: nn.Module
    surgery: Surgery
    seed: int = 0
    narrow: bool = False
    original: nn.Module | None = None
    _pairs: dict[torch.dtype, Pair] = field(default_factory=dict)

    def pair(self, dtype: torch.dtype | None = None) -> Pair:
        """Return both networks in a float type: by default float64, or float32 if they are large or lack float64.

        Raises:
            CaptureError: the dense network's calls cannot be masked by the plan.
        """
        if dtype is not None:
            if dtype not in self._pairs:
                self._pairs[dtype] = self._made(dtype)
            return self._pairs[dtype]
        if self.narrow or sum(p.numel() for p in self.dense.parameters()) > GIANT:
            return self.pair(torch.float32)
        try:
            return self.pair(torch.float64)
        except RuntimeError as error:
            if "not implemented for 'Double'" not in str(error):
                raise
            return self.pair(torch.float32)

    def _made(self, dtype: torch.dtype) -> Pair:
        it = trial(self.captured, self.coupling, self.plan, self.captured_inputs, seed=self.seed, dtype=dtype)
        twin = masked_twin(self.dense, self.captured, self.captured_inputs, self.parts, it)
        twin.model.eval()
        small = it.twin(self.model).eval()
        args, kwargs = split_inputs(self.inputs)
        pair = Pair(
            twin,
            small,
            lambda: it.holding(self.dense, it.values).eval(),
            it,
            args,
            kwargs,
            cut_masks(self.coupling, self.plan.axes),
        )
        pair.args, pair.kwargs = pair.wide((args, kwargs))
        return pair

    def check_shapes(self) -> None:
        """Refuse a cut network whose tensors have other shapes than the plan says.

        Raises:
            CaptureError: a tensor has another shape.
        """
        own = named_tensors(unwrap(self.model))
        for name, dims in self.coupling.tensors.items():
            shape = tuple(self.coupling.kept(e, self.plan.axes) for e in dims)
            if name in own and self.coupling.graph.tensors[name].kind == "parameter" and own[name].shape != shape:
                raise CaptureError(
                    f"the calls of {type(self.dense).__name__} cannot be compared: {name} has shape "
                    f"{tuple(own[name].shape)}, by the plan {shape}; it was changed after the cut."
                )

    @property
    def is_transformers(self) -> bool:
        """Return whether the network is a model of the transformers library."""
        return any(base.__name__ == "PreTrainedModel" for base in type(self.dense).__mro__)

    def needs_transformers(self) -> None:
        """Refuse a call that only models of the transformers library have.

        Raises:
            NotTaken: the network is another one.
        """
        if not self.is_transformers:
            raise NotTaken("a call of transformers models")
