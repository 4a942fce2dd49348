"""Calls around every step of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer


@contextmanager
def called_around_steps(
    optimizer: Optimizer, before: Callable[[], object], after: tuple[Callable[[], object], ...]
) -> Iterator[None]:
    """Call functions before and after every ``optimizer.step()`` inside a ``with`` block."""

    def call_before(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        before()

    def call_after(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for call in after:
            call()

    handles = [optimizer.register_step_pre_hook(call_before), optimizer.register_step_post_hook(call_after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
