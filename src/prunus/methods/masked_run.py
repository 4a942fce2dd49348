"""Run the captured program on data with a plan applied as masks: the true loss, and the values of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from prunus.analysis import BATCH, Analysis
from prunus.data.batches import DataSource
from prunus.data.calibration import pairs
from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling
from prunus.graph.interpreter import flat_inputs, run
from prunus.graph.ir import Node, Ref
from prunus.graph.program_by_shape import ProgramsByShape, ops_of
from prunus.methods.reduction import tensors_of
from prunus.plans import Plan
from prunus.surgery.merging import with_merges
from prunus.surgery.proving.verify import masked_tensors, reference_overrides


class Replay:
    """The program of an analysis, run on batches of any size without cutting.

    Removed units are zero, dropped operands bypassed, and averages run over kept positions only, so it computes the
    outputs of the cut network at the cost of a forward pass.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._tensors = tensors_of(analysis) | dict(analysis.coupling.graph.constants)
        self._device = next((t.device for t in self._tensors.values()), torch.device("cpu"))
        self._programs = ProgramsByShape(analysis.model, analysis.coupling, {"ops": ops_of}, made=lambda local: local)

    def loss(self, data: DataSource, plan: Plan, samples: int | None = None) -> float:
        """Return the mean loss of the network of a plan over a split, without recovery.

        Args:
            data: the split.
            plan: a plan of the analysis; its units, branches and weights are removed.
            samples: stop after the batch that reaches this number of samples; None runs all.

        Raises:
            DataError: no batches, or batches of another program than the captured one.
        """
        merged = with_merges(self._tensors, plan)
        masked = masked_tensors(merged, self.analysis.coupling, plan)
        total = count = 0.0
        for coupling, inputs, targets in self._batches(data):
            with torch.no_grad():
                outputs = run(
                    coupling.graph,
                    masked | dict(coupling.graph.constants),
                    inputs,
                    override=reference_overrides(coupling, plan),
                )
                total += float(self.analysis.loss(outputs, targets)) * len(inputs[0])
            count += len(inputs[0])
            if samples is not None and count >= samples:
                break
        return total / count

    def values(self, data: DataSource, refs: Iterable[Ref], plan: Plan | None = None) -> Iterator[dict[Ref, Tensor]]:
        """Yield, for every batch, the values at the given refs in the network of a plan; None is the dense one.

        Raises:
            DataError: no batches, or batches of another program than the captured one.
        """
        places: dict[str, list[Ref]] = {}
        for ref in refs:
            places.setdefault(ref.node, []).append(ref)
        tensors = self._tensors if plan is None else masked_tensors(self._tensors, self.analysis.coupling, plan)
        for coupling, inputs, _ in self._batches(data):
            values: dict[Ref, Tensor] = {}

            def observe(node: Node, result: Any, values: dict[Ref, Tensor] = values) -> None:
                for ref in places.get(node.name, ()):
                    # A copy, so that a later in-place op cannot change it.
                    values[ref] = (result[ref.index] if isinstance(result, (tuple, list)) else result).clone()

            with torch.no_grad():
                run(
                    coupling.graph,
                    tensors | dict(coupling.graph.constants),
                    inputs,
                    observe=observe,
                    override=None if plan is None else reference_overrides(coupling, plan),
                )
            yield values

    def _batches(self, data: DataSource) -> Iterator[tuple[Coupling, list[Tensor], Any]]:
        for inputs, targets in pairs(data.batches(BATCH), self._device):
            coupling = self._programs.of(inputs)
            yield coupling, flat_inputs(coupling.graph, *split_inputs(inputs)), targets
