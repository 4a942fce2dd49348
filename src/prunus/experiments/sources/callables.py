"""Calls of ``package.module:callable`` and ``file.py:callable``; every failure is one line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from prunus.errors import UsageError, nearest
from prunus.foundation.user_code import errors_named, one_line


def is_callable_source(text: str) -> bool:
    """Return whether ``text`` has the form ``file.py:callable`` or ``package.module:callable``."""
    place, colon, name = text.rpartition(":")
    dotted = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and name.isidentifier() and (place.endswith(".py") or dotted)


def call_source(
    text: str, args: Mapping[str, Any], base_dir: Path, kind: type[UsageError], seed: int | None = None
) -> Any:
    """Call the callable that ``text`` names with ``args``, and return its result.

    Modules are searched in ``base_dir`` first; a file can also import from its own folder.

    Args:
        text: ``file.py:callable`` or ``package.module:callable``.
        args: keyword arguments of the call; files and folders in them start from ``base_dir`` too.
        base_dir: the folder from which a relative file and a module start.
        kind: the class of the errors.
        seed: set just before the call, so that random numbers drawn during the import change nothing.

    Raises:
        UsageError: as ``kind``: no such file, module or name, or the user's code raised.
    """
    place, _, name = text.rpartition(":")
    file = base_dir / Path(place).expanduser() if place.endswith(".py") else None
    with _on_path([file.parent, base_dir] if file else [base_dir]):
        module = _load_file(file, text, kind) if file else _load_module(place, text, kind)
        member = _member(module, name, text, kind)
        if isinstance(member, nn.Module):
            return _as_is(member, args, text, kind)
        if not callable(member):
            raise kind(f"{text!r}: {name!r} is a {type(member).__name__}; allowed: a function or class. Name one.")
        with errors_named(repr(text), kind, member):
            if seed is not None:
                torch.manual_seed(seed)
            return member(**{key: _located(key, value, base_dir) for key, value in args.items()})


_PLACES = ("path", "file", "folder", "dir", "root")
"""Words in the key of an argument that names a file or folder."""


def _located(key: str, value: Any, base_dir: Path) -> Any:
    """Return an argument in which files and folders beside the recipe are named from its folder.

    A text with a slash or a suffix is a path if it exists there. A bare word is one only under a key that names a
    place, because ``split: train`` means no folder.
    """
    if isinstance(value, dict):
        return {inner: _located(str(inner), each, base_dir) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_located(key, each, base_dir) for each in value)
    if not isinstance(value, str) or not value or "\0" in value or len(value) > _LONGEST_PATH:
        return value
    bare = "/" not in value and not Path(value).suffix
    if bare and not any(word in key.lower() for word in _PLACES):
        return value
    place = base_dir / Path(value).expanduser()
    return str(place.resolve()) if place.exists() else value


_LONGEST_PATH = 1024


def _as_is(member: Any, args: Mapping[str, Any], text: str, kind: type[UsageError]) -> Any:
    if args:
        raise kind(f"{text!r} is a finished module, which takes no arguments; got {', '.join(args)}. Remove them.")
    return member


def _load_file(file: Path, text: str, kind: type[UsageError]) -> ModuleType:
    if not file.is_file():
        near = nearest(file.name, [entry.name for entry in file.parent.glob("*.py")])
        raise kind(f"{text!r}: no such file {str(file)!r}.{near} Give a path relative to the recipe's folder.")
    content = file.read_bytes()
    # The name depends on the content, so that an edited file is read again and an unchanged one is not.
    digest = hashlib.sha256(str(file.resolve()).encode() + content).hexdigest()[:12]
    module_name = f"prunus_user_{file.stem}_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise kind(f"{text!r}: {file.name!r} cannot be loaded as Python; give a .py file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name while it runs.
    sys.modules[module_name] = module
    try:
        with errors_named(repr(text), kind):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _load_module(place: str, text: str, kind: type[UsageError]) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(error.name + ".")):
            raise kind(
                f"{text!r}: no module named {error.name!r} is installed or beside the recipe; "
                "write file.py:callable for a file, or install the package."
            ) from error
        raise kind(f"{text!r}: importing {place!r} failed: {one_line(error)}; install it.") from error
    except Exception as error:
        raise kind(f"{text!r}: importing {place!r} raised {type(error).__name__}: {one_line(error)}") from error


def _member(module: ModuleType, name: str, text: str, kind: type[UsageError]) -> Any:
    missing = object()
    member = getattr(module, name, missing)
    if member is missing:
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        known = ", ".join(sorted(public)[:12]) or "nothing that can be called"
        raise kind(f"{text!r}: it has no {name!r}.{nearest(name, public)} It has: {known}.")
    return member


@contextmanager
def _on_path(folders: list[Path]) -> Iterator[None]:
    added = [str(folder.resolve()) for folder in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)
