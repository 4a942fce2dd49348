"""The hooks of a pruner around every step of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from torch.optim import Optimizer


class Hooks(Protocol):
    """The calls of `prunus.Pruner` around a step of an optimizer."""

    def train_begin(
        self, optimizer: Optimizer, total_steps: int | None = None, *, minutes: float | None = None
    ) -> None:
        """Begin the training."""

    def step_begin(self) -> None:
        """Change masks where that is due."""

    def before_optimizer_step(self) -> None:
        """Read the gradients."""

    def after_optimizer_step(self) -> None:
        """Hold masked weights at zero."""

    def train_end(self) -> None:
        """End the training."""

    def detach(self) -> None:
        """Let go of the network."""


AnyHooks = TypeVar("AnyHooks", bound=Hooks)


@contextmanager
def hooked(
    pruner: AnyHooks, optimizer: Optimizer, total_steps: int | None, minutes: float | None
) -> Iterator[AnyHooks]:
    """Call the hooks of a pruner around every ``optimizer.step()`` inside a ``with`` block."""

    def before(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        pruner.before_optimizer_step()

    def after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        pruner.after_optimizer_step()
        pruner.step_begin()

    pruner.train_begin(optimizer, total_steps, minutes=minutes)
    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    try:
        pruner.step_begin()
        yield pruner
        pruner.train_end()
    finally:
        for handle in handles:
            handle.remove()
        pruner.detach()
