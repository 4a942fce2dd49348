"""`measure`: the cost of a network, its quality on data, and its time against a baseline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prunus.cost.price import cost_model
from prunus.data.calibration import batches_of
from prunus.data.calling import called
from prunus.data.learning import as_often_as_needed
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.graph.call_form import CallForm, as_called
from prunus.graph.capture import capture, split_inputs, unwrap
from prunus.graph.coupling import couple
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.measurement.quality import Quality, evaluate
from prunus.plans import Cost


@dataclass(frozen=True, slots=True)
class Measurement:
    """Counts, quality and time of one network.

    Attributes:
        cost: exact counts for one call on the example inputs; 1 MAC = one multiply and one add.
        nonzero: parameters that are not zero.
        quality: on the given data, else None.
        forward, backward: time ratio to the given baseline, else None.
    """

    cost: Cost
    nonzero: int
    quality: Quality | None = None
    forward: LatencyRatio | None = None
    backward: LatencyRatio | None = None

    def __str__(self) -> str:
        lines = [
            f"params         {self.cost.params:,} ({self.nonzero:,} not zero)",
            f"MACs forward   {self.cost.macs_forward:,}",
            f"MACs backward  {self.cost.macs_backward:,}",
            f"bytes          {self.cost.param_bytes:,}",
        ]
        if self.quality is not None:
            lines.append(f"accuracy       {self.quality.accuracy:.4f} (macro F1 {self.quality.f1_macro:.4f})")
        for name, ratio in (("forward", self.forward), ("backward", self.backward)):
            if ratio is not None:
                lines.append(f"{name:<9}time ×{ratio.median:.2f} of the baseline ({ratio.low:.2f}–{ratio.high:.2f})")
        return "\n".join(lines)


@in_ordinary_mode
def measure(
    model: nn.Module,
    example_inputs: Any,
    *,
    data: Iterable[Any] | None = None,
    baseline: nn.Module | None = None,
    rounds: int = 30,
    threads: int | None = None,
    loss: str = "",
    seed: int = 0,
) -> Measurement:
    """Count the cost of a network exactly; on request also score it on data and time it against a baseline.

    Args:
        model: the network.
        example_inputs: one call of it; MACs are those of one of its samples.
        data: a loader, a dataset or batches to score it on: (inputs, labels), or mappings with ``labels``.
        baseline: a network to time against: A/B/A/B in this process, median ratio with a 95 % interval.
        rounds: number of timed pairs.
        threads: intra-op threads while timing; None leaves them as they are.
        loss: the name of the loss of the labels, where it defines how they are read: ``next_token``.
        seed: of the bootstrap.
    """
    model = unwrap(model)
    example_inputs = as_called(model, example_inputs)
    cost = cost_model(couple(capture(model, example_inputs))).price()
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    quality = None
    if data is not None:
        quality = evaluate(
            model, called(batches_of(as_often_as_needed(data), "data"), CallForm(example_inputs)), loss=loss
        )
    forward = backward = None
    if baseline is not None:
        args, kwargs = split_inputs(example_inputs)
        inputs: Any = kwargs or args
        forward, backward = (
            latency_ratio(model, baseline, inputs, backward=b, rounds=rounds, threads=threads, seed=seed)
            for b in (False, True)
        )
    return Measurement(cost, nonzero, quality, forward, backward)
