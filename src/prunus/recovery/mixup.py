"""Mixed samples for a teacher: where data are few, its outputs between samples add information."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.data.batches import Inputs, tensors_in


def mixed_inputs(inputs: Inputs, share: float) -> Inputs:
    """Return a batch in which a share of the samples is mixed, each with another of the batch.

    x' = λ·x + (1 − λ)·x_π,  λ ~ U(0, 1) for each sample that is mixed and 1 for the others, π a random order; all
    tensors of a call get the same λ and π.
    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412 (inputs alone: the teacher's
    outputs take the place of mixed labels); Beyer et al., "Knowledge distillation: A good teacher is patient and
    consistent", arXiv:2106.05237.

    Args:
        inputs: a batch; left as it is.
        share: probability that a sample is mixed; with 0 nothing is drawn.

    Shapes: (B, …) → (B, …).
    """
    if not share:
        return inputs
    count = len(next(tensors_in(inputs)))
    ratio = torch.where(torch.rand(count) < share, torch.rand(count), torch.ones(count))
    order = torch.randperm(count)

    def mix(tensor: Tensor) -> Tensor:
        own = ratio.to(tensor).view(-1, *[1] * (tensor.ndim - 1))
        return own * tensor + (1 - own) * tensor[order.to(tensor.device)]

    mixed: Any = pytree.tree_map_only(Tensor, mix, inputs)
    return mixed  # type: ignore[no-any-return]


def can_be_mixed(inputs: Inputs) -> bool:
    """Return True if all tensors of a call are floating-point: between integer ids there is nothing to mix."""
    return all(tensor.is_floating_point() for tensor in tensors_in(inputs))
