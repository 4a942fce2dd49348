"""Faults for tests: a process that is killed at the n-th line of a file, and system calls that fail."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def killed_at(line: int, file: str, work: Callable[[], Any]) -> bool:
    """Run ``work`` in a child that kills itself at the n-th line run of ``file``; return False if it ended first."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename != file:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


class Full(io.FileIO):
    """A file on which every write fails once no calls are left."""

    faults: Faults

    def write(self, data: Any) -> int:
        self.faults.count("write")
        return super().write(data)


class Faults:
    """System calls of which the n-th below a folder, and all later ones, fail with one error."""

    def __init__(self, folder: Path, code: int, first: int) -> None:
        self.folder, self.code, self.left = str(folder), code, first
        self.failed: list[str] = []

    def count(self, name: str) -> None:
        """Raise the error if no call is left."""
        self.left -= 1
        if self.left < 0:
            self.failed.append(name)
            raise OSError(self.code, os.strerror(self.code))

    def wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            inside = not isinstance(path, int) and os.fspath(path).startswith(self.folder)
            # Removal succeeds on a full disk, and a folder can be opened on one that is read-only.
            if inside or name == "fsync":
                self.count(name)
            return original(path, *args, **kwargs)

        return call

    def opened(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Open a file; in a mode that writes, each write counts."""
        mine = isinstance(file, int) or os.fspath(file).startswith(self.folder)
        if not mine or not set(mode) & set("wxa+"):
            return _OPEN(file, mode, *args, **kwargs)
        if not isinstance(file, int):
            self.count("open")
        raw = Full(file, mode.replace("b", "").replace("t", ""))
        raw.faults = self
        stream = io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding="utf-8", write_through=True)


_OPEN = io.open


@contextmanager
def failing(folder: Path, code: int, first: int) -> Iterator[Faults]:
    """Let the n-th and all later calls below ``folder`` that open, write, sync, rename or make something fail."""
    faults = Faults(folder, code, first)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename", "replace", "mkdir"):
            patch.setattr(os, name, faults.wrapped(name, getattr(os, name)))
        patch.setattr(io, "open", faults.opened)
        patch.setattr("builtins.open", faults.opened)
        patch.setattr(os, "fdopen", faults.opened)
        yield faults
