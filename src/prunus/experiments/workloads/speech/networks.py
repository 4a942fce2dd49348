"""Four classifiers of log-mel spectrograms: an MLP, a CNN, an LSTM and a GRU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from prunus.experiments.workloads.speech.features import BANDS, FRAMES


class SpeechMLP(nn.Sequential):
    """Linear layers over the whole spectrogram, with ReLU and dropout between them.

    Shapes: pictures (B, 1, 32, 48) → logits (B, classes).
    """

    def __init__(self, hidden: Sequence[int], classes: int) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise((BANDS * FRAMES, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.2)]
        super().__init__(*layers, nn.Linear(hidden[-1], classes))


class SpeechCNN(nn.Module):
    """3×3 convolutions with batch norm and ReLU, each followed by pooling by two; mean over positions, a linear layer.

    Source: Sainath & Parada, "Convolutional Neural Networks for Small-footprint Keyword Spotting", Interspeech 2015.

    Shapes: pictures (B, 1, 32, 48) → logits (B, classes).
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for inputs, outputs in pairwise((1, *widths))
            )
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of pictures."""
        logits: Tensor = self.head(self.dropout(self.stages(x).mean((2, 3))))
        return logits


class SpeechRecurrent(nn.Module):
    """Recurrent layers along the frames, the mean of their states, a linear layer.

    Args:
        cell: ``nn.LSTM`` or ``nn.GRU``.
        hidden: The units of a layer.
        layers: The number of layers.
        classes: The number of logits.
        both_ways: Whether each layer also runs backwards.

    Shapes: pictures (B, 1, 32, 48) → logits (B, classes).
    """

    def __init__(
        self, cell: type[nn.LSTM] | type[nn.GRU], hidden: int, layers: int, classes: int, both_ways: bool = False
    ) -> None:
        super().__init__()
        self.recurrent = cell(BANDS, hidden, layers, batch_first=True, bidirectional=both_ways)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(hidden * (1 + both_ways), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of pictures."""
        states = self.recurrent(x.squeeze(1).transpose(1, 2))[0]
        logits: Tensor = self.head(self.dropout(states.mean(1)))
        return logits
