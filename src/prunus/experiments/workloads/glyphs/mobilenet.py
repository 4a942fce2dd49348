"""A MobileNet-like network: inverted residuals with depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """1×1 widening, 3×3 for each channel alone, 1×1 narrowing without activation; plus the input where shapes agree.

    An expansion of 1 leaves the widening out.

    Shapes: (B, inputs, h, w) → (B, outputs, ⌈h/stride⌉, ⌈w/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        wider = (nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.conv = nn.Sequential(
            *(wider if expansion > 1 else ()),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the narrow output, with the input added where shapes agree."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNet(nn.Module):
    """A 3×3 stem of stride two, three stages of inverted residuals at 16×16, 8×8 and 4×4, a 1×1 head, mean, linear.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.

    Args:
        widths: Channels of the stem, which is also the first stage, and of the two later stages.
        blocks: Blocks in each of the three stages.
        head: Channels of the 1×1 convolution before the mean.
        expansion: Widening inside the blocks of the two later stages; those of the first have none.
        classes: The number of logits.

    Shapes: images (B, 1, 32, 32) → logits (B, classes).
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        blocks: tuple[int, int, int],
        head: int,
        expansion: int = 4,
        classes: int = 62,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, widths[0], 3, 2, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU6(),
        ]
        inputs = widths[0]
        for stage, (outputs, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                stride = 2 if stage and not number else 1
                layers.append(InvertedResidual(inputs, outputs, stride, expansion if stage else 1))
                inputs = outputs
        layers += [nn.Conv2d(inputs, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
