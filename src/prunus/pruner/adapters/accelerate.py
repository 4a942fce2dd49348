"""Accelerate: the same hooks around the optimizer that ``accelerator.prepare`` wrapped."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from prunus.pruner.adapters.loop import attached
from prunus.pruner.pruner import Pruner


def accelerated(pruner: Pruner, optimizer: Any, total_steps: int) -> AbstractContextManager[Pruner]:
    """Return a ``with`` block in which a prepared optimizer calls the hooks; accumulated batches are one step.

    Args:
        pruner: of the network, prepared or not.
        optimizer: what ``accelerator.prepare`` returned.
        total_steps: how many optimizer steps are to come.

    Example:
        ``with accelerated(pruner, optimizer, total_steps=1000): ...``
    """
    return attached(pruner, getattr(optimizer, "optimizer", optimizer), total_steps)
