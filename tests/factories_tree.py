"""A small network with every level of the hierarchy: residual stages, attention, a head."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunus.graph.capture import capture
from prunus.graph.coupling import Coupling, couple
from prunus.tree import Tree, grow_tree


class Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.short = nn.Conv2d(inputs, width, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Attend(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0))
        return x + self.out(y.transpose(1, 2).flatten(2))


class Hybrid(nn.Module):
    """A stem, two stages of two blocks, tokens with attention, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.low = nn.Sequential(Basic(8, 8, 1), Basic(8, 8, 1))
        self.high = nn.Sequential(Basic(8, 12, 2), Basic(12, 12, 1))
        self.attend = nn.ModuleList(Attend(12, 3) for _ in range(2))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.high(self.low(self.stem(x))).flatten(2).transpose(1, 2)
        for block in self.attend:
            x = block(x)
        return self.head(x.mean(1))


@functools.cache
def coupling() -> Coupling:
    torch.manual_seed(0)
    return couple(capture(Hybrid().eval(), torch.randn(2, 3, 8, 8)))


@functools.cache
def tree() -> Tree:
    return grow_tree(coupling())
