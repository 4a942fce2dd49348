"""A digest of all tensor values of a network."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from prunus.graph.recorder import named_tensors


def weights_digest(model: nn.Module) -> str:
    """Return a short hash of all tensor values, by which a plan recognises its weights and a training its teacher."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(model).items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()[:16]
