"""Random layer problems: a weight, and the moment of correlated inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.solvers import Consumer, damped, reconstruction_error, refit

DAMPING = 0.01


def layer(outputs: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return (W, H) in float64, H of four times as many samples as inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(4 * inputs, inputs) @ normal(inputs, inputs) / inputs**0.5
    return normal(outputs, inputs), x.T @ x / len(x)


def readers(units: int = 8, seed: int = 0) -> list[Consumer]:
    """Return two readers of the same units: three inputs a unit with four of their own, and one input a unit."""
    first, second = layer(5, 3 * units + 4, seed), layer(2 * units, units, seed + 1)
    unit = torch.cat([torch.arange(units).repeat_interleave(3), torch.full((4,), -1)])
    weighting = torch.diag(torch.arange(1.0, 2 * units + 1, dtype=torch.float64))
    return [Consumer(*first, unit), Consumer(*second, torch.arange(units), weighting, 0.5)]


def best_error(consumers: list[Consumer], kept: Tensor) -> float:
    """Return the least error of all consumers without some units, from one least squares problem each."""
    total = 0.0
    for c in consumers:
        mask = c.kept_inputs(kept).expand(c.weight.shape)
        change = c.weight - refit(c.weight, c.moment, mask, damping=DAMPING)
        weighting = torch.eye(len(change)).double() if c.output is None else c.output
        total += c.scale * float((weighting * (change @ damped(c.moment, DAMPING) @ change.T)).sum())
    return total


def error(weight: Tensor, found: Tensor, moment: Tensor) -> float:
    """Return the error on the damped moment, which is what solvers minimise."""
    return reconstruction_error(weight, found, damped(moment, DAMPING))
