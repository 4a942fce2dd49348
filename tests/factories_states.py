"""Everything about a model that a function which only reads it must leave alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunus.graph.recorder import named_tensors


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return bits, identities, gradients, modes, attributes and hooks of a model, and the random state."""
    tensors = named_tensors(model)
    return {
        "bits": {
            n: t.detach().reshape(-1).view(torch.uint8).tolist() if t.dim() else t.item() for n, t in tensors.items()
        },
        "same objects": {n: id(t) for n, t in tensors.items()},
        "gradients": {n: None if t.grad is None else t.grad.tolist() for n, t in tensors.items()},
        "trainable": {n: t.requires_grad for n, t in tensors.items()},
        "modes": [m.training for m in model.modules()],
        "attributes": [_plain(m) for m in model.modules()],
        "hooks": [(list(m._forward_hooks.values()), list(m._forward_pre_hooks.values())) for m in model.modules()],
        "random": torch.random.get_rng_state().tolist(),
    }


def _plain(module: nn.Module) -> dict[str, Any]:
    return {k: v if isinstance(v, (int, float, str, tuple)) else id(v) for k, v in vars(module).items()}
