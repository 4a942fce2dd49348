"""Every member of this package keeps the promises of its role: one line each."""

from __future__ import annotations

import torch
from torch import nn

from prunus import testing
from prunus_example.gated import Gated


def network() -> nn.Module:
    """Return a network in which the op of `gated` stands between two convolutions."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), Gated(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


TestCriterion = testing.criterion_suite("path-norm")
TestWeightCriterion = testing.weight_criterion_suite("relative-importance")
TestAllocator = testing.allocator_suite("square-root")
TestMethod = testing.method_suite("path-units")
TestSchedule = testing.schedule_suite("exponential")
TestRule = testing.rule_suite("prunus_example.gated", network, torch.randn(2, 3, 6, 6))
TestRepair = testing.repair_suite("line-search")
TestExporter = testing.exporter_suite("npz")
