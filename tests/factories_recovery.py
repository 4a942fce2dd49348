"""A small task, a network that knows it, and the network cut in half: what recoveries work on in tests."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from prunus.analysis.score import make_plan
from prunus.data.sources import Split
from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.plans import Plan
from prunus.recovery import RecoveryOptions, RecoveryTask
from prunus.surgery.cut import cut_with_record
from prunus.surgery.tensors import sliced_masks
from prunus.training import TrainingOptions, finetune_

CLASSES, FEATURES, WIDTH = 4, 8, 24


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.norm(self.a(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(FEATURES, WIDTH), nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


EXAMPLE = torch.zeros(2, FEATURES)


@functools.cache
def task() -> tuple[Split, Split]:
    """Return what is learned from and what decides: points labelled by a fixed random network."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(640, FEATURES, generator=generator)
    hidden = torch.relu(inputs @ torch.randn(FEATURES, 16, generator=generator))
    labels = (hidden @ torch.randn(16, CLASSES, generator=generator)).argmax(1)
    return Split(inputs[:512], labels[:512], "train"), Split(inputs[512:], labels[512:], "held out")


@functools.cache
def dense() -> Net:
    """Return the trained network; only to be read."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    finetune_(model, task()[0], TrainingOptions(steps=60, lr=1e-2))
    return model.eval()


@functools.cache
def analysed() -> Coupling:
    return couple(capture(dense(), EXAMPLE))


def half_plan(share: float = 0.5, *, masked: bool = False) -> Plan:
    """Return the plan that keeps the first units of every axis; ``masked`` also a third of the head."""
    coupling = analysed()
    keep = {name: np.arange(axis.size) < max(1, int(axis.size * share)) for name, axis in coupling.axes.items()}
    mask = np.arange(CLASSES * WIDTH).reshape(CLASSES, WIDTH) % 3 > 0
    return make_plan(coupling, keep, masks={"head.weight": mask} if masked else {})


def cut_by(plan: Plan) -> nn.Module:
    return cut_with_record(dense(), analysed(), plan, EXAMPLE)[0]


def case(recover: dict[str, Any], *, masked: bool = False, **changes: Any) -> RecoveryTask:
    """Return the recovery of the network cut in half."""
    plan = half_plan(masked=masked)
    found = {
        "model": cut_by(plan),
        "dense": dense(),
        "train": task()[0],
        "held_out": task()[1],
        "masks": sliced_masks(plan),
        "options": RecoveryOptions.of({"lr": 5e-3, **recover}),
        "plan": plan,
        "coupling": analysed(),
        "example_inputs": EXAMPLE,
    }
    return RecoveryTask(**(found | changes))
