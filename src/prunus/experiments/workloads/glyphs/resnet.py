"""A residual network of basic blocks in three stages."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(shortcut(x) + branch(x)) with a branch of two 3×3 convolutions; a 1×1 shortcut where the shapes differ.

    Shapes: (B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the shortcut and the branch."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 stem of stride two, three stages of basic blocks at 16×16, 8×8 and 4×4, mean, and a linear layer.

    Source: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

    Args:
        widths: Channels of the three stages; the stem has those of the first.
        blocks: Basic blocks in each stage.
        classes: The number of logits.

    Shapes: images (B, 1, 32, 32) → logits (B, classes).
    """

    def __init__(self, widths: tuple[int, int, int], blocks: int, classes: int = 62) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = [
            nn.Sequential(
                *(
                    BasicBlock(outputs if number else inputs, outputs, 1 if number or not stage else 2)
                    for number in range(blocks)
                )
            )
            for stage, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False))
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
