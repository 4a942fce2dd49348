"""Prove a coupling on a tiny net: cut it by half and at random, compare with the masked original, count the price."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.cost.price import cost_model
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan, fingerprint
from prunus.surgery.cut import cut
from prunus.surgery.proving.verify import compare_models


def half_of(coupling: Coupling, seed: int = 0) -> dict[str, np.ndarray]:
    """Keep a random half of every axis."""
    return random_share(coupling, seed, 0.5, 0.5)


def random_share(coupling: Coupling, seed: int, low: float = 0.05, high: float = 0.9) -> dict[str, np.ndarray]:
    """Keep random units, another share of every axis."""
    generator = np.random.default_rng(seed)
    keep = {}
    for axis in coupling.axes.values():
        mask = np.zeros(axis.size, bool)
        count = max(1, int(axis.size * generator.uniform(low, high)))
        mask[generator.permutation(axis.size)[:count]] = True
        keep[axis.id] = mask
    return keep


def assert_exact(
    model: nn.Module, inputs: Any, coupling: Coupling, keep: dict[str, np.ndarray], mode: str = "graph"
) -> nn.Module:
    """Cut, and insist on: masked equals cut, something changed, price equals count; returns the cut model."""
    plan = Plan(fingerprint(coupling.graph), keep, coupling.tensor_masks(keep))
    small = cut(model, coupling, plan, inputs, mode=mode)
    check = compare_models(model, small, coupling, plan, inputs)
    assert check.values_equal
    assert check.error <= 1e-4, check
    assert check.change > 1e-6, "the cut changed nothing, so the check proves nothing"
    predicted = cost_model(coupling).price(keep)
    counted = cost_model(couple(capture(small, inputs))).price()
    assert predicted == counted
    return small


def prove(model: nn.Module, inputs: Any, *, axes: dict[str, int], mode: str = "graph") -> Coupling:
    """Insist on exactly these removable axes (id → size), then on exact cuts by half and at random."""
    torch.manual_seed(0)
    model.eval()
    coupling = couple(capture(model, inputs))
    assert {axis.id: axis.size for axis in coupling.axes.values()} == axes
    assert not coupling.unknown
    for keep in (half_of(coupling), random_share(coupling, 1), random_share(coupling, 2)):
        assert_exact(model, inputs, coupling, keep, mode)
    return coupling
