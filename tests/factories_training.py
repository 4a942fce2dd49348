"""Tiny networks and data on which prunings run while they train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.sources import Split
from prunus.pruner import Pruner

OPTIMIZERS: dict[str, Any] = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw with decay": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0, weight_decay=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
}


class Block(nn.Module):
    """x + a small branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(width, 12), nn.BatchNorm1d(12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.norm(self.up(x))))


def blocks(seed: int = 0) -> nn.Sequential:
    """Return a residual classifier of 8 inputs and 4 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), Block(10), Block(10), Block(10), nn.Linear(10, 4))


def samples(count: int = 128) -> Split:
    """Return four classes by the signs of two products."""
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(3))
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long() + 2 * (inputs[:, 2] > 0).long()
    return Split(inputs, targets, "train")


def fit(
    model: nn.Module, pruner: Pruner | None, optimizer: torch.optim.Optimizer, steps: int, scheduler: Any = None
) -> list[dict[str, Tensor]]:
    """Train for some steps of 32 samples and return the weights after each step."""
    data, trace = samples(), list[dict[str, Tensor]]()
    if pruner is not None:
        pruner.train_begin(optimizer, steps)
    for step in range(steps):
        if pruner is not None:
            pruner.step_begin()
        rows = torch.arange(32) + 32 * (step % 4)
        loss = nn.functional.cross_entropy(model(data.inputs[rows]), data.targets[rows])
        torch.autograd.backward(loss)
        if pruner is not None:
            pruner.before_optimizer_step(loss)
        optimizer.step()
        if pruner is not None:
            pruner.after_optimizer_step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        trace.append({name: p.detach().clone() for name, p in model.named_parameters()})
    if pruner is not None:
        pruner.train_end()
    return trace
