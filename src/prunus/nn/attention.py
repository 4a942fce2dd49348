"""Multi-head attention with any number of heads and any head width, independent of the model width."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prunus.nn.masks import as_scores, joined_mask


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with ``num_heads`` heads of ``head_dim``, whatever ``embed_dim`` is.

    head_i = softmax(scale · Q_i K_iᵀ + mask) V_i;  out = concat(head_1, …, head_H) W_o
    Source: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762.

    Call, masks and parameter names are those of torch; with torch's widths it computes the same as torch's module.

    Args:
        embed_dim: width of queries and of the output.
        num_heads: number of heads.
        dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype: as in torch.
        head_dim: width of a query and a key in each head; embed_dim // num_heads by default.
        value_dim: width of a value in each head; head_dim by default.
        scale: factor of the scores q·k; 1/√head_dim by default.
    """

    value_dim: int
    scale: float

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__(
            num_heads, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device, dtype
        )
        width = head_dim if head_dim is not None else embed_dim // num_heads
        values = width if value_dim is None else value_dim
        self.embed_dim, self.kdim, self.vdim = embed_dim, kdim or embed_dim, vdim or embed_dim
        self.resize_(num_heads, width, values, 1 / math.sqrt(width) if scale is None else scale)
        like = {"device": device, "dtype": dtype}
        keys, out = num_heads * width, num_heads * values
        packed = self.kdim == embed_dim and self.vdim == embed_dim
        shapes = {
            "in_proj_weight": (2 * keys + out, embed_dim) if packed else None,
            "q_proj_weight": None if packed else (keys, embed_dim),
            "k_proj_weight": None if packed else (keys, self.kdim),
            "v_proj_weight": None if packed else (out, self.vdim),
            "in_proj_bias": (2 * keys + out,) if bias else None,
            "bias_k": (1, 1, keys) if add_bias_kv else None,
            "bias_v": (1, 1, out) if add_bias_kv else None,
        }
        for name, shape in shapes.items():
            setattr(self, name, None if shape is None else nn.Parameter(torch.empty(shape, **like)))
        self.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(out, embed_dim, bias=bias, **like)
        self._reset_parameters()

    def resize_(self, num_heads: int, head_dim: int, value_dim: int, scale: float) -> None:
        """Set the widths to those of the parameters."""
        self.num_heads, self.head_dim, self.value_dim, self.scale = num_heads, head_dim, value_dim, scale
        # Disables torch's fused kernels of whole encoder layers, which assume that the heads fill the width.
        self._qkv_same_embed_dim = False

    def _reset_parameters(self) -> None:
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if getattr(self, name, None) is not None:
                nn.init.xavier_uniform_(getattr(self, name))
        if self.in_proj_bias is not None:
            nn.init.zeros_(self.in_proj_bias)
            nn.init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                nn.init.xavier_normal_(bias)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; arguments and results are those of `torch.nn.MultiheadAttention`.

        Shapes: query (B, L, E), key (B, S, Ek), value (B, S, Ev) with ``batch_first``, else (L, B, E), …; without a
            batch (L, E), … → output like the query, and weights (B, L, S), (B, H, L, S) if not averaged, or None.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says what attn_mask holds; give the mask too.")
        batched = query.dim() == 3
        q, k, v = self._projected(query, key, value, batched)
        q, k, v = self._heads(q, self.head_dim), self._heads(k, self.head_dim), self._heads(v, self.value_dim)
        added = k.shape[-2]
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        added = k.shape[-2] - added + (self.bias_k is not None)
        causal = is_causal and key_padding_mask is None and not need_weights and not added
        mask = None
        if not causal:
            padding = as_scores(key_padding_mask, "key_padding_mask", q.dtype)
            mask = joined_mask(padding, as_scores(attn_mask, "attn_mask", q.dtype), q, self.num_heads, added)
        out, weights = self._attended(q, k, v, mask, need_weights=need_weights, causal=causal)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, L, E)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batched: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries (B, L, H·D), keys (B, S, H·D) and values (B, S, H·V)."""
        keys, out = self.num_heads * self.head_dim, self.num_heads * self.value_dim
        sizes = [keys, keys, out]
        if self.in_proj_weight is not None and query is key and key is value:
            q, k, v = torch.split(F.linear(query, self.in_proj_weight, self.in_proj_bias), sizes, dim=-1)
        else:
            packed = self.in_proj_weight is not None
            weights = (
                torch.split(self.in_proj_weight, sizes)
                if packed
                else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            )
            biases = (None,) * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, sizes)
            q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        if not batched:
            q, k, v = q[None], k[None], v[None]
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], 1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], 1, -1)], dim=1)
        return q, k, v

    def _heads(self, x: torch.Tensor, width: int) -> torch.Tensor:
        """Return (B, L, H·D) as (B, H, L, D)."""
        return x.view(*x.shape[:-1], self.num_heads, width).transpose(1, 2)

    def _attended(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        *,
        need_weights: bool,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (B, H, L, V), and the weights (B, H, L, S) where ``need_weights``."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=self.scale), None
        scores = (q * self.scale) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        return weights @ v, weights

    @property
    def is_plain(self) -> bool:
        """Tell whether torch's own module can hold these parameters: the heads fill the width, with the usual scale."""
        first = self.in_proj_weight if self.in_proj_weight is not None else self.q_proj_weight
        inner = self.num_heads * self.head_dim
        fills = inner == self.embed_dim == first.shape[1] and self.value_dim == self.head_dim
        return fills and math.isclose(self.scale, 1 / math.sqrt(self.head_dim))

    def plain(self) -> nn.MultiheadAttention:
        """Return torch's module around the same parameters.

        Raises:
            ValueError: torch's module has no such shape.
        """
        if not self.is_plain:
            raise ValueError(
                f"{self.num_heads} heads of {self.head_dim} (values {self.value_dim}) do not fill the width "
                f"{self.embed_dim}, or the scale is not 1/√{self.head_dim}; torch's attention has no such shape."
            )
        made = nn.MultiheadAttention.__new__(nn.MultiheadAttention)
        vars(made).update(vars(self))
        vars(made).pop("value_dim")
        vars(made).pop("scale")
        made._qkv_same_embed_dim = self.in_proj_weight is not None
        return made


def widened_(module: nn.MultiheadAttention, num_heads: int, head_dim: int, value_dim: int, scale: float) -> None:
    """Turn a cut `torch.nn.MultiheadAttention` into one of these widths in place; its path in the model stays."""
    module.__class__ = MultiheadAttention
    assert isinstance(module, MultiheadAttention)
    module.resize_(num_heads, head_dim, value_dim, scale)
