"""Turns on a model: calls of several threads on one model object follow each other, those on different models do not.

While a call works, it sets modes, hooks, gradients and attributes of its model, and puts them back at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_GUARD = threading.Lock()


@contextmanager
def turn_on(models: Iterable[nn.Module]) -> Iterator[None]:
    """Wait until no other thread is in such a block with one of these models, and hold them inside the block."""
    with _GUARD:
        locks = [_LOCKS.setdefault(model, threading.RLock()) for model in models]
    with ExitStack() as held:
        # In one order for all threads, so that none waits for another that waits for it.
        for lock in sorted(locks, key=id):
            held.enter_context(lock)
        yield
