"""Taylor and Fisher statistics of units, from the derivatives of the loss in their gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunus.criteria.labels import drawn_loss
from prunus.criteria.probes import Calibration, Statistics, probe
from prunus.criteria.unit_gates import gate_slopes
from prunus.data.calibration import loss_on


@probe("gates", ("taylor_sample", "taylor_batch", "worst_class"), labels=True, backward=True)
def _labelled(calibration: Calibration) -> Statistics:
    squares = {name: torch.zeros(axis.size, dtype=torch.float64) for name, axis in calibration.coupling.axes.items()}
    batched = {name: total.clone() for name, total in squares.items()}
    by_class: dict[int, tuple[int, dict[str, Tensor]]] = {}
    samples = batches = 0

    def loss(outputs: Any, flat: list[Tensor], targets: Any) -> Tensor:
        return loss_on(calibration.loss, outputs, targets)

    for slopes, targets in gate_slopes(calibration, loss, labelled=True):
        count = len(next(iter(slopes.values()), ()))
        samples, batches = samples + count, batches + 1
        for name, slope in slopes.items():
            squares[name] += slope.square().sum(0)
            batched[name] += slope.mean(0).square()
        for label in _classes(targets, count):
            chosen = targets == label
            n, sums = by_class.get(label, (0, {}))
            own = {name: s[chosen.cpu()].square().sum(0) + sums.get(name, 0.0) for name, s in slopes.items()}
            by_class[label] = (n + int(chosen.sum()), own)
    sample = {name: total / (2 * max(1, samples)) for name, total in squares.items()}
    worst = {
        name: torch.stack([sums[name] / (2 * n) for n, sums in by_class.values()]).amax(0) if by_class else mean
        for name, mean in sample.items()
    }
    return {
        "taylor_sample": sample,
        "taylor_batch": {name: total / max(1, batches) for name, total in batched.items()},
        "worst_class": worst,
    }


def _classes(targets: Any, samples: int) -> list[int]:
    """Return the labels of a batch with one integer a sample."""
    if not isinstance(targets, Tensor) or targets.shape != (samples,) or targets.is_floating_point():
        return []
    return sorted({int(label) for label in targets.tolist()})


@probe("fisher", ("fisher",), backward=True)
def _fisher(calibration: Calibration) -> Statistics:
    total = {name: torch.zeros(axis.size, dtype=torch.float64) for name, axis in calibration.coupling.axes.items()}
    samples = 0
    predictions = 1

    def loss(outputs: Any, flat: list[Tensor], targets: Any) -> Tensor:
        nonlocal predictions
        drawn, predictions = drawn_loss(outputs, flat, targets, calibration.seed)
        return drawn

    for slopes, _ in gate_slopes(calibration, loss, labelled=False):
        for name, slope in slopes.items():
            total[name] += slope.square().sum(0) / (2 * predictions)
        samples += len(next(iter(slopes.values()), ()))
    return {"fisher": {name: value / max(1, samples) for name, value in total.items()}}
