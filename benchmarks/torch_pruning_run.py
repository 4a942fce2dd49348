"""Torch-Pruning to shares of the MACs as prunus counts them; shared by the benchmarks that stand beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

STEPS = 200
"""It prunes in so many steps until the MACs are met."""
_MOST = 0.98
_NEAR = 1.15
"""Its own count leaves some ops out; from so near on the exact one decides."""


def prunable(model: nn.Module) -> nn.Module:
    """Return a copy whose attention takes its width from its own projection, as that tool's examples do it."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(getattr(module, "qkv", None), nn.Linear):
            module.__class__ = _Attention
    return model


def pruned_to_(
    model: nn.Module,
    example: Tensor,
    classes: int,
    shares: Sequence[float],
    importance: Any,
    scope: str,
    share_of: Callable[[nn.Module], float],
) -> Iterator[tuple[float, float]]:
    """Yield (wanted, met) shares of the MACs, largest first; the model is pruned to each when it is yielded.

    Args:
        model: from `prunable`.
        example: one input.
        classes: how many outputs the last layer has, which stay.
        shares: of the dense network's MACs.
        importance: of that tool.
        scope: local or global.
        share_of: counts exactly.
    """
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=importance,
        global_pruning=scope == "global",
        pruning_ratio=_MOST,
        iterative_steps=STEPS,
        num_heads={m.qkv: m.heads for m in model.modules() if isinstance(m, _Attention)},
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes],
    )
    whole, _ = tp.utils.count_ops_and_params(model, example)
    left = sorted(shares, reverse=True)
    for _ in range(STEPS):
        pruner.step()
        if tp.utils.count_ops_and_params(model, example)[0] > _NEAR * left[0] * whole:
            continue
        met = share_of(model)
        while left and met <= left[0]:
            yield left.pop(0), met
        if not left:
            return


class _Attention(nn.Module):
    """Attention over whatever widths were left to its projections."""

    heads: int
    qkv: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        width = self.qkv.out_features // 3
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        gathered = functional.scaled_dot_product_attention(*parts.unbind(0))
        last = self.proj if hasattr(self, "proj") else self.out
        mixed: Tensor = last(gathered.transpose(1, 2).reshape(batch, tokens, width))
        return mixed
