"""Accelerate: a ``with`` block around the optimizer that ``accelerator.prepare`` wrapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prunus.pruner.pruner import Pruner


@contextmanager
def accelerated(pruner: Pruner, optimizer: Any, total_steps: int, accelerator: Any = None) -> Iterator[Pruner]:
    """Return a ``with`` block in which a prepared optimizer calls the hooks; accumulated batches are one step.

    Args:
        pruner: the pruner of the network, prepared or not.
        optimizer: the optimizer that ``accelerator.prepare`` returned.
        total_steps: the number of optimizer steps to come.
        accelerator: its ``backward`` reports the loss inside the block, for ``adaptive``; else call ``pruner.tell``.

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
