"""A coupling rule for a custom op: channels scaled by learned gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.graph.ir import Node
from prunus.graph.layout import Expr
from prunus.graph.rules import Flow


@torch.library.custom_op("prunus_example::gated", mutates_args=())
def gated(x: Tensor, gate: Tensor) -> Tensor:
    """Scale each channel by its gate: y = x · σ(gate).

    Shapes: x (B, C, …), gate (C,) → (B, C, …).
    """
    return x * torch.sigmoid(gate).reshape(-1, *[1] * (x.dim() - 2))


@gated.register_fake
def _shape(x: Tensor, gate: Tensor) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, gate = ctx.saved_tensors
    opened = torch.sigmoid(gate).reshape(-1, *[1] * (x.dim() - 2))
    others = [dim for dim in range(x.dim()) if dim != 1]
    return grad * opened, (grad * x * opened * (1 - opened)).sum(others)


gated.register_autograd(_backward, setup_context=_remember)


def gated_rule(flow: Flow, node: Node) -> list[Sequence[Expr]]:
    """Unify the channels of x (B, C, …) with gate (C,): where a channel goes, its gate goes too."""
    x, gate = flow.dims(node.args["x"]), flow.dims(node.args["gate"])
    flow.unify(x[1], gate[0])
    return [tuple(flow.norm(dim) for dim in x)]


class Gated(nn.Module):
    """The op as a module: one learned gate a channel.

    Shapes: (B, C, …) → (B, C, …).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled channels."""
        scaled: Tensor = gated(x, self.gate)
        return scaled
