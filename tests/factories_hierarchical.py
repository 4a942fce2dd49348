"""Small networks of five kinds with data, analysed, for tests of the hierarchical procedure."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import prunus
from prunus.analysis import Analysis

Batches = list[tuple[Any, Tensor]]


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(torch.relu(x).mean((2, 3)))


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Recommender(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(20, 8), nn.Embedding(30, 8)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.users(user), self.items(item)], -1))


def inputs_of(kind: str, count: int, draw: torch.Generator) -> Any:
    if kind == "Recommender":
        return tuple(torch.randint(0, n, (count,), generator=draw) for n in (20, 30))
    shape = {"Conv": (1, 6, 6), "Attend": (5, 6), "Recurrent": (5, 6), "Mlp": (12,)}[kind]
    return torch.randn(count, *shape, generator=draw)


def first_of(inputs: Any) -> Tensor:
    return inputs[0] if isinstance(inputs, tuple) else inputs


@functools.cache
def network(kind: str) -> tuple[nn.Module, Any, Batches]:
    draw = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
        if kind == "Mlp"
        else {"Conv": Conv, "Attend": Attend, "Recurrent": Recurrent, "Recommender": Recommender}[kind]()
    )
    batches = []
    for _ in range(3):
        inputs = inputs_of(kind, 32, draw)
        flat = first_of(inputs).reshape(32, -1)
        targets = (flat[:, 0] > 0).long() + (flat[:, -1] > 0).long() if flat.is_floating_point() else flat[:, 0] % 3
        batches.append((inputs, targets))
    return model.eval(), inputs_of(kind, 2, draw), batches


@functools.cache
def subject(kind: str, *, data: bool = True) -> Analysis:
    model, example, batches = network(kind)
    return prunus.analyse(model, example, data=batches if data else None)
