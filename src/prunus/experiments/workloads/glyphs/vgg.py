"""A VGG-like network: five convolutions with pooling between them, two fully connected layers."""

from __future__ import annotations

from torch import Tensor, nn


class VGG(nn.Module):
    """Five 3×3 convolutions with batch norm, pooled by two after the first, third and fifth, and two linear layers.

    Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    arXiv:1409.1556 (the pattern).

    Args:
        widths: Channels of the five convolutions.
        hidden: Width of the first linear layer.
        classes: The number of logits.

    Shapes: images (B, 1, 32, 32) → logits (B, classes).
    """

    def __init__(self, widths: tuple[int, int, int, int, int], hidden: int, classes: int = 62) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip((1, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            if number % 2 == 0:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * 4 * 4, hidden),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
