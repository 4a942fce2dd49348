"""Click models over embedded indices: DeepFM and two towers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *hidden)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))


class DeepFM(nn.Module):
    """A factorisation machine and an MLP over the same embeddings.

    score = Σ_i w_i + ½ Σ_d ((Σ_i v_id)² − Σ_i v_id²) + MLP(v); the logits are (−score, score).
    Source: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", arXiv:1703.04247.

    Args:
        sizes: The number of values of each field.
        width: The width of an embedding.
        hidden: Widths of the MLP.

    Shapes: indices (B, fields) int64 → logits (B, 2).
    """

    def __init__(self, sizes: Sequence[int], width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Embedding(size, 1) for size in sizes)
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.mlp = perceptron(len(sizes) * width, hidden, 1)
        self.dropout = nn.Dropout(0.2)
        for table in self.embeddings:
            nn.init.normal_(table.get_parameter("weight"), std=0.1)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits of a batch of events."""
        columns = indices.unbind(1)
        first = torch.cat([table(column) for table, column in zip(self.weights, columns, strict=True)], 1)
        vectors = torch.stack([table(column) for table, column in zip(self.embeddings, columns, strict=True)], 1)
        pairs = (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True) / 2
        score = first.sum(1, keepdim=True) + pairs + self.mlp(self.dropout(vectors.flatten(1)))
        return torch.cat([-score, score], 1)


class TwoTower(nn.Module):
    """One MLP for the person with hour and device, one for the thing with its genre; their dot product is the score.

    Source: Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016.

    Args:
        sizes: The number of values of each field: person, thing, genre, hour, device.
        width: The width of an embedding.
        hidden: Widths of each MLP.
        shared: The output width of the towers.

    Shapes: indices (B, 5) int64 → logits (B, 2).
    """

    def __init__(self, sizes: Sequence[int], width: int, hidden: Sequence[int], shared: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.asks = perceptron(3 * width, hidden, shared)
        self.offers = perceptron(2 * width, hidden, shared)
        self.dropout = nn.Dropout(0.2)
        self.bias = nn.Parameter(torch.zeros(1))
        for table in self.embeddings:
            nn.init.normal_(table.get_parameter("weight"), std=0.3)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits of a batch of events."""
        person, thing, genre, hour, device = (
            self.dropout(table(column)) for table, column in zip(self.embeddings, indices.unbind(1), strict=True)
        )
        asked = self.asks(torch.cat([person, hour, device], 1))
        offered = self.offers(torch.cat([thing, genre], 1))
        score = (asked * offered).sum(1, keepdim=True) / 2 + self.bias
        return torch.cat([-score, score], 1)
