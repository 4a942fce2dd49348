"""Accelerate: the same hooks around the optimizer that ``accelerator.prepare`` wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prunus.pruner.pruner import Pruner


@contextmanager
def accelerated(pruner: Pruner, optimizer: Any, total_steps: int, accelerator: Any = None) -> Iterator[Pruner]:
    """Return a ``with`` block in which a prepared optimizer calls the hooks; accumulated batches are one step.

    Args:
        pruner: of the network, prepared or not.
        optimizer: what ``accelerator.prepare`` returned.
        total_steps: how many optimizer steps are to come.
        accelerator: whose ``backward`` says the loss inside the block, for ``adaptive``; else call ``pruner.tell``.

    Example:
        ``with accelerated(pruner, optimizer, total_steps=1000, accelerator=accelerator): ...``
    """

    def backward(loss: Any, **kwargs: Any) -> None:
        pruner.tell(loss)
        type(accelerator).backward(accelerator, loss, **kwargs)

    if accelerator is not None:
        accelerator.backward = backward
    try:
        with pruner.attached(getattr(optimizer, "optimizer", optimizer), total_steps):
            yield pruner
    finally:
        if accelerator is not None:
            del accelerator.backward
