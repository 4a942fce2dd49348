"""Calls of the user's functions: an exception inside becomes one line that names the function and its line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prunus.errors import OptionError, PrunusError, UsageError

_NOT_THE_USERS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
"""The folders of torch's and our own files; a folder of the user's may have the same name elsewhere."""


@contextmanager
def errors_named(
    what: str, kind: type[UsageError] = OptionError, function: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Turn any exception of the user's code into one line of ``kind`` with its file and line.

    Args:
        what: the user's code in messages, such as ``criterion 'mine'``.
        kind: the class of the errors.
        function: the called function; where no line of it ran, the message names its first one.
    """
    try:
        yield
    except PrunusError:
        raise
    except Exception as error:
        line = user_line(error) or _first_line(function)
        where = f" at {Path(line[0]).name}:{line[1]}" if line else ""
        raise kind(f"{what} raised {type(error).__name__}{where}: {one_line(error)}{_cause(error)}") from error


def user_line(error: BaseException) -> tuple[str, int] | None:
    """Return file and line of the innermost frame of an exception that lies in the user's code."""
    found, trace = None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if is_users(name):
            found = (name, trace.tb_lineno)
        trace = trace.tb_next
    return found


def is_users(file: str) -> bool:
    """Return whether a file is the user's: neither torch's nor our own, nor made while running."""
    return not file.startswith(("<", *_NOT_THE_USERS))


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of ``error`` on one line, cut at ``limit`` characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= limit else text[: limit - 3] + "..."


class UserFunction:
    """A function of the user's; an exception inside it becomes an `OptionError` with its name.

    Example:
        >>> UserFunction("loss", "mine", lambda outputs, targets: 1 / 0)(0, 0)
        Traceback (most recent call last):
        prunus.errors.OptionError: loss 'mine' raised ZeroDivisionError: division by zero
    """

    def __init__(self, role: str, name: str, function: Callable[..., Any]) -> None:
        self.role, self.function = role, function
        self.__name__ = name

    def __call__(self, *args: Any) -> Any:
        """Call the function.

        Raises:
            OptionError: the function raised an exception.
        """
        with errors_named(f"{self.role} {self.__name__!r}", OptionError, self.function):
            return self.function(*args)


def _first_line(function: Any) -> tuple[str, int] | None:
    code = getattr(getattr(function, "__init__", None) if isinstance(function, type) else function, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code is not None and is_users(code.co_filename) else None


def _cause(error: BaseException) -> str:
    return f" (because of: {one_line(error.__cause__)})" if error.__cause__ else ""
