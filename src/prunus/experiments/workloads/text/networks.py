"""Classifiers of byte snippets: a stem that makes tokens of a few bytes, then a transformer, an LSTM or a GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8  # bytes between tokens


class ByteStem(nn.Module):
    """Embed bytes, and make a token of every six bytes, in steps of four.

    Source: Xue et al., "ByT5: Towards a Token-Free Future", arXiv:2105.13626 (bytes as the alphabet); Tay et al.,
    "Charformer", arXiv:2106.12672 (fewer tokens than bytes).

    Shapes: bytes (B, T) int64 → tokens (B, T/4, width).
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, embedding)
        self.join = nn.Conv1d(embedding, width, 12, STRIDE, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the tokens of a batch of snippets."""
        return torch.relu(self.join(self.embed(ids).transpose(1, 2))).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Shapes: tokens (B, T, width) → (B, T, width).
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention outputs of all tokens, over all tokens or over those up to each."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2))
        gathered: Tensor = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        mixed: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and added to its input.

    Shapes: tokens (B, T, width) → (B, T, width).
    """

    def __init__(self, width: int, heads: int, hidden: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the block."""
        x = x + self.attention(self.norm1(x))
        x = x + self.feed(self.norm2(x))
        return x


class TextTransformer(nn.Module):
    """Stem, learned positions, blocks, norm, mean over the tokens, a linear layer.

    Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762; norms in front: Xiong et al.,
    arXiv:2002.04745.

    Args:
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads; they divide the width.
        classes: The number of logits.
        length: Bytes of a snippet.

    Shapes: bytes (B, length) int64 → logits (B, classes).
    """

    def __init__(self, width: int, depth: int, heads: int, classes: int, length: int = 512) -> None:
        super().__init__()
        self.stem = ByteStem(width // 2, width)
        self.positions = nn.Parameter(torch.randn(length // STRIDE, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of a batch of snippets."""
        x = self.blocks(self.stem(ids) + self.positions)
        logits: Tensor = self.head(self.dropout(self.norm(x).mean(1)))
        return logits


class TextRecurrent(nn.Module):
    """Stem, one or more recurrent layers, maximum over the tokens, a linear layer.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997; Cho et al., arXiv:1406.1078 (GRU).

    Args:
        cell: ``nn.LSTM`` or ``nn.GRU``.
        width: Channels of a token.
        hidden: Units of a recurrent layer.
        layers: Recurrent layers.
        classes: The number of logits.

    Shapes: bytes (B, T) int64 → logits (B, classes).
    """

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], width: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.stem = ByteStem(width // 2, width)
        self.recurrent = cell(width, hidden, layers, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(hidden, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of a batch of snippets."""
        states = self.recurrent(self.stem(ids))[0]
        logits: Tensor = self.head(self.dropout(states.amax(1)))
        return logits
