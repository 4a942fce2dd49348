"""A plain loop: the hooks are called around ``optimizer.step()``, the loop stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from prunus.pruner.pruner import Pruner


@contextmanager
def attached(pruner: Pruner, optimizer: Optimizer, total_steps: int) -> Iterator[Pruner]:
    """Call the five hooks inside a ``with`` block; steps that a gradient scaler skips do not count.

    Masks change right after a step instead of right before the next, which no forward pass can tell apart.

    Args:
        pruner: of the network that the optimizer trains.
        optimizer: any; its step hooks are used, and given back at the end.
        total_steps: how many optimizer steps are to come.

    Example:
        ``with pruner.attached(optimizer, total_steps=1000): train(model, optimizer)``
    """

    def before(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        pruner.before_optimizer_step()

    def after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        pruner.after_optimizer_step()
        pruner.step_begin()

    pruner.train_begin(optimizer, total_steps)
    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    try:
        pruner.step_begin()
        yield pruner
        pruner.train_end()
    finally:
        for handle in handles:
            handle.remove()
        pruner.detach()
