"""Join named tensors into one vector, and split it back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.errors import DataError


def flatten(scores: Mapping[str, Tensor]) -> Tensor:
    """Join all scores into one fresh float64 vector on the CPU, in the order of the mapping.

    Raises:
        DataError: no tensors, or a score is not finite; the tensor is named.
    """
    check_finite(scores)
    parts = [score.detach().reshape(-1).to(device="cpu", dtype=torch.float64) for score in scores.values()]
    return torch.cat(parts)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot be ranked.

    Raises:
        DataError: no tensors, or a value is not finite; the tensor is named.
    """
    if not any(tensor.numel() for tensor in tensors.values()):
        raise DataError("no weights to mask; give at least one non-empty tensor, see prunable_weights(model).")
    for name, tensor in tensors.items():
        # The extremes are NaN where any value is, and take one pass without a copy.
        if not tensor.numel() or all(bool(torch.isfinite(extreme)) for extreme in tensor.detach().aminmax()):
            continue
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise DataError(f"tensor {name!r} has {bad} values that are NaN or infinite; allowed are finite numbers.")


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split one vector back into tensors of the shapes and devices in ``like``."""
    parts = torch.split(flat, [tensor.numel() for tensor in like.values()])
    # Each is a clone, because a view of one buffer pickles and saves the whole buffer.
    return {
        name: part.reshape(tensor.shape).to(tensor.device, copy=True)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }
