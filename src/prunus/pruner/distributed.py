"""The same masks in every process: scores are averaged first, masks are those of process 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together; 1 without ``torch.distributed``."""
    dist = torch.distributed
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its mean over all processes; a single process changes nothing."""
    processes = world_size()
    if processes > 1:
        for tensor in tensors:
            shared = tensor.to(carrier(tensor))
            torch.distributed.all_reduce(shared)
            tensor.copy_(shared / processes)


def carrier(tensor: Tensor) -> torch.device:
    """Return the device from which a tensor can be sent: NCCL cannot send tensors on the processor."""
    if tensor.device.type == "cpu" and torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device


def agree_(masks: Iterable[Tensor]) -> None:
    """Overwrite every mask with that of process 0."""
    if world_size() > 1:
        for mask in masks:
            torch.distributed.broadcast(mask, 0)


def rank() -> int:
    """Return the number of this process; 0 without ``torch.distributed``."""
    return torch.distributed.get_rank() if world_size() > 1 else 0


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in order of their numbers."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found
