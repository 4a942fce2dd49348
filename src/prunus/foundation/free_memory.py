"""The memory that is free, and the share of it that a computation may take."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

GIB = 1 << 30
_ASSUMED = 16 * GIB
_UNLIMITED = 1 << 60
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

_LIMIT: ContextVar[int | None] = ContextVar("limit of memory", default=None)


def free_bytes() -> int:
    """Return the bytes of main memory that are free now, those of caches included.

    The limit of a container counts too. Where the system does not say what is free, half of all memory is assumed,
    and 16 GiB where it says nothing.
    """
    return min([_of_system(), *_of_containers()])


@contextlib.contextmanager
def memory_limit(size_bytes: int | None) -> Iterator[None]:
    """Set the limit that `default_memory` returns inside the block; None leaves it as it is."""
    token = _LIMIT.set(_LIMIT.get() if size_bytes is None else size_bytes)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def default_memory() -> int:
    """Return the limit of memory in bytes: that of `memory_limit`, else a quarter of what is free.

    The quarter is rounded down to a power of two, at least 1 GiB, and measured once a process, so that a result does
    not depend on what else runs at the moment.
    """
    limit = _LIMIT.get()
    return _quarter() if limit is None else limit


@functools.cache
def _quarter() -> int:
    quarter = max(GIB, free_bytes() // 4)
    return 1 << (quarter.bit_length() - 1)


def _of_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return _ASSUMED


def _of_containers() -> list[int]:
    found = []
    for limit, used in _GROUPS:
        try:
            most, now = (int(Path(name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        if most < _UNLIMITED:
            found.append(max(0, most - now))
    return found
