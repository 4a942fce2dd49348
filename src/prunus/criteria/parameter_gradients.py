"""The mean gradient of all parameters as a probe; frozen ones have gradients for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from prunus.criteria.gradients import collect_gradients
from prunus.criteria.probes import Calibration, Statistics, probe


@probe("gradients", ("grad",), labels=True, backward=True, program=False)
def _mean_gradients(calibration: Calibration) -> Statistics:
    with thawed(calibration.model) as names:
        found = collect_gradients(calibration.model, calibration.batches, calibration.loss, names)
    assert found.grad is not None
    return {"grad": found.grad}


@contextlib.contextmanager
def thawed(model: nn.Module) -> Iterator[list[str]]:
    """Let frozen parameters have gradients for a while: their units are scored too. Yields all names."""
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    frozen = [p for p in named.values() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield list(named)
    finally:
        for p in frozen:
            p.requires_grad_(False)
