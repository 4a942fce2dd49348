"""A small GPT over bytes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunus.experiments.workloads.text.networks import Block


class ByteGPT(nn.Module):
    """Embedding, learned positions, causal blocks, norm, and the embedding again as the last layer.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; tied embeddings: Press & Wolf,
    arXiv:1608.05859.

    Args:
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads; they divide the width.
        context: The largest number of bytes that it can read.

    Shapes: bytes (B, T) int64, T ≤ context → logits (B, 256, T), with classes second for the cross-entropy.
    """

    def __init__(self, width: int, depth: int, heads: int, context: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.positions = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the byte after each position."""
        x = self.blocks(self.embed(ids) + self.positions[: ids.shape[1]])
        logits: Tensor = self.head(self.norm(x))
        return logits.transpose(1, 2)
