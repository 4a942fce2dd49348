"""DigitsNet: a small over-parameterised CNN with every kind of coupling that a cut has to respect."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

# A block that starts near its shortcut trains faster and ends closer to the same accuracy on every seed.
BRANCH_GAIN = 0.2


class ConvNorm(nn.Sequential):
    """Convolution (same padding, no bias), batch norm and, unless ``act`` is False, ReLU.

    Shapes: (B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs),
        )
        if act:
            parts["act"] = nn.ReLU()
        super().__init__(parts)


class Residual(nn.Module):
    """relu(shortcut(x) + branch(x)); the shortcut is the identity, or a 1×1 projection where the shapes differ.

    Shapes: (B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, branch: nn.Sequential, stride: int = 1) -> None:
        super().__init__()
        self.branch = branch
        last = branch[-1].get_submodule("norm")
        nn.init.constant_(last.get_parameter("weight"), BRANCH_GAIN)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride=stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the shortcut and the branch."""
        return torch.relu(self.shortcut(x) + self.branch(x))


class Parallel(nn.Module):
    """cat(branch(x) for each branch) along the channels: branches of different kinds side by side.

    Shapes: (B, inputs, h, w) → (B, Σ outputs of the branches, h, w).
    """

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all branches, joined along the channels."""
        return torch.cat([branch(x) for branch in self.branches.values()], dim=1)


def plain(inputs: int, hidden: int, outputs: int, stride: int = 1) -> Residual:
    """Return a residual block of two 3×3 convolutions."""
    branch = nn.Sequential(ConvNorm(inputs, hidden, 3, stride=stride), ConvNorm(hidden, outputs, 3, act=False))
    return Residual(inputs, outputs, branch, stride)


def grouped(inputs: int, outputs: int, groups: int, *, stride: int = 1) -> list[ConvNorm]:
    """Return a 1×1 and a 3×3 convolution in ``groups``.

    The 1×1 in front separates the groups: if they read a sum or a cat directly, they would couple all its
    channels, and units could only be removed in large bundles.
    """
    return [ConvNorm(inputs, outputs, 1), ConvNorm(outputs, outputs, 3, stride=stride, groups=groups)]


def bottleneck(inputs: int, hidden: int, outputs: int, groups: int, stride: int = 1) -> Residual:
    """Return a residual block of a 1×1, a 3×3 in ``groups`` and a 1×1 convolution."""
    first = grouped(inputs, hidden, groups, stride=stride)
    return Residual(inputs, outputs, nn.Sequential(*first, ConvNorm(hidden, outputs, 1, act=False)), stride)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """Return a depthwise separable convolution: 3×3 for each channel alone, then a 1×1 that mixes them."""
    return nn.Sequential(ConvNorm(inputs, inputs, 3, groups=inputs), ConvNorm(inputs, outputs, 1))


class DigitsNet(nn.Module):
    """Classify 8×8 grey images; far wider than the task needs, so that there is something to prune.

    Two stages of residual blocks, at 4×4 and at 2×2, with a joint of parallel branches between them. Nearly all
    parameters lie inside droppable residual branches or cat segments, so that dropping them leaves less than 10 % of
    them. The layers are few and wide, so that the time of a layer depends on its width and not on the call overhead.
    The head reads a flattened map, so its axis is channels × positions.

    Shapes: images (B, 1, 8, 8) → logits (B, classes).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 32, 3)
        self.stage1 = nn.Sequential(plain(32, 40, 48, stride=2), plain(48, 40, 48))
        self.mix = Parallel(
            point=ConvNorm(48, 24, 1),
            grouped=nn.Sequential(*grouped(48, 32, 4)),
            separable=separable(48, 24),
        )
        self.stage2 = nn.Sequential(
            plain(80, 34, 80, stride=2), plain(80, 34, 80), bottleneck(80, 80, 80, 4), plain(80, 32, 80)
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(80 * 2 * 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.stage2(self.mix(self.stage1(self.stem(x))))
        logits: Tensor = self.head(self.dropout(x.flatten(1)))
        return logits
