"""Coupling rules keep the promises of their role: one op or two of every family, each between layers with weights.

The many other ops of a family share its rule; the cuts of their networks are proved in tests/unit and tests/zoo.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from factories_suites import suites
from prunus.graph.rules import RULES, load_rules
from prunus.testing import rule_suite

Change = Callable[[Tensor], Tensor]
load_rules()


class Lines(nn.Module):
    """A change of (2, 4, 12) between two linear layers."""

    def __init__(self, change: Change, width: int = 12) -> None:
        super().__init__()
        self.a, self.b, self.change = nn.Linear(6, 12), nn.Linear(width, 3), change

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.b(self.change(torch.tanh(self.a(x))))
        return answer


class Pictures(nn.Module):
    """A layer on (2, 12, 8, 8) between two convolutions."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.a, self.layer, self.b = nn.Conv2d(3, 12, 3), make(), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.b(self.layer(torch.relu(self.a(x))))
        return answer


class Sequences(nn.Module):
    """A recurrent layer between two linear layers."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.a, self.cell, self.b = nn.Linear(6, 12), kind(12, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.b(self.cell(self.a(x))[0])
        return answer


def attention(x: Tensor) -> Tensor:
    q = x.unflatten(-1, (3, 4)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q * 0.5, q.sin()).transpose(1, 2).flatten(2)


LINES: dict[str, tuple[Change, int]] = {
    "gelu": (F.gelu, 12),
    "mul": (lambda x: x * x.sigmoid(), 12),
    "glu": (F.glu, 6),
    "cat": (lambda x: torch.cat([x, -x], -1), 24),
    "split": (lambda x: x.split(6, -1)[0] * x.split(6, -1)[1], 6),
    "reshape": (lambda x: x.reshape(2, 4, 4, 3).sin().reshape(2, 4, 12), 12),
    "permute": (lambda x: x.permute(2, 0, 1).exp().permute(1, 2, 0), 12),
    "mean": (lambda x: x - x.mean(-1, keepdim=True), 12),
    "slice": (lambda x: x[..., 3:9], 6),
    "einsum": (lambda x: torch.einsum("btd,bsd->bts", x, x) @ x, 12),
    "scaled_dot_product_attention": (attention, 12),
    "layer_norm": (lambda x: F.layer_norm(x, (12,)), 12),
    "pad": (lambda x: F.pad(x, (0, 4)), 16),
    "roll": (lambda x: x.roll(3, -1), 12),
}
PICTURES: dict[str, Callable[[], nn.Module]] = {
    "conv2d": partial(nn.Conv2d, 12, 12, 3, groups=4),
    "conv_transpose2d": partial(nn.ConvTranspose2d, 12, 12, 2),
    "batch_norm": partial(nn.BatchNorm2d, 12),
    "group_norm": partial(nn.GroupNorm, 3, 12),
    "max_pool2d": partial(nn.MaxPool2d, 2),
    "upsample_nearest2d": partial(nn.Upsample, scale_factor=2),
    "pixel_shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(3, 12, 1)),
}
SEQUENCES: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU}
CASES: dict[str, dict[str, Any]] = {
    **{op: {"network": partial(Lines, *made), "inputs": torch.randn(2, 4, 6)} for op, made in LINES.items()},
    **{op: {"network": partial(Pictures, made), "inputs": torch.randn(2, 3, 10, 10)} for op, made in PICTURES.items()},
    "embedding": {
        "network": lambda: nn.Sequential(nn.Embedding(9, 12), nn.Tanh(), nn.Linear(12, 3)),
        "inputs": torch.arange(8).reshape(2, 4),
    },
    **{op: {"network": partial(Sequences, made), "inputs": torch.randn(2, 4, 6)} for op, made in SEQUENCES.items()},
}

globals().update(suites(CASES, rule_suite, CASES))


@pytest.mark.parametrize(
    "family",
    [
        "elementwise",
        "contraction",
        "convolution",
        "normalisation",
        "reshape",
        "join",
        "reduction",
        "indexing",
        "attention",
        "recurrent",
        "spatial",
    ],
)
def test_every_family_is_among_them(family: str) -> None:
    modules = {RULES.get(op).__module__ for op in CASES}
    assert any(module.endswith(f".{family}") for module in modules)
