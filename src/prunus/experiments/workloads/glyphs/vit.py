"""A small vision transformer with a fused query-key-value projection and a convolutional stem."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head self-attention.

    Shapes: tokens (B, T, width) → (B, T, width).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention outputs of all tokens."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        gathered: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return gathered


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and added to its input.

    Shapes: tokens (B, T, width) → (B, T, width).
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the block."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class ViT(nn.Module):
    """A stem that makes 16 tokens of 8×8 pixels with some overlap, blocks, norm, mean over the tokens, a linear layer.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929; the convolutions of the stem:
    Xiao et al., "Early Convolutions Help Transformers See Better", arXiv:2106.14881.

    Args:
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads; they divide the width.
        classes: The number of logits.

    Shapes: images (B, 1, 32, 32) → logits (B, classes).
    """

    def __init__(self, width: int, depth: int, heads: int, classes: int = 62) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            nn.Conv2d(1, width // 4, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 2, 2),
        )
        self.pos_embed = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits
