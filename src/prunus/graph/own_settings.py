"""Settings that read as another object's but for some entries: what one module needs otherwise, and all else shared.

Modules of one network hold one configuration. Where a cut changes an entry for one module alone, that module gets a
view: its own numbers stand in it, and everything else is read from the shared object, and written to it. So
``model.set_attn_implementation("eager")`` and the like reach every module after a cut as before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

_ITSELF = frozenset(("__class__", "__dict__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__"))


class _View:
    """Attributes are those of ``shared``, but for the entries of ``own``."""

    def __getattribute__(self, name: str) -> Any:
        if name in _ITSELF:
            return object.__getattribute__(self, name)
        held = object.__getattribute__(self, "__dict__")
        return held["own"][name] if name in held["own"] else getattr(held["shared"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        held = object.__getattribute__(self, "__dict__")
        if name in held["own"]:
            held["own"][name] = value
        else:
            setattr(held["shared"], name, value)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        held = object.__getattribute__(self, "__dict__")
        return view_of, (held["shared"], dict(held["own"]))


@functools.cache
def _kind_of(kind: type) -> type[Any]:
    if issubclass(kind, _View):
        return kind
    # A subclass of the settings' own class: isinstance holds.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_View, kind), names)


def view_of(shared: Any, own: Mapping[str, Any]) -> Any:
    """Return settings that read as ``shared`` but for the entries of ``own``. It can be copied and pickled."""
    kind: type = type(shared)
    view: Any = object.__new__(_kind_of(kind))
    object.__getattribute__(view, "__dict__").update(shared=shared, own=dict(own))
    return view


def is_view(settings: Any) -> bool:
    """Whether settings are a view."""
    return issubclass(type(settings), _View)


def parts_of(view: Any) -> tuple[Any, dict[str, Any]]:
    """Return what a view shares, and its own entries."""
    held = object.__getattribute__(view, "__dict__")
    return held["shared"], held["own"]


def entries(settings: Any) -> dict[str, Any]:
    """Return the attributes of settings, a view's own ones in their place."""
    if not is_view(settings):
        return dict(vars(settings))
    shared, own = parts_of(settings)
    return entries(shared) | own


__all__ = ["entries", "is_view", "parts_of", "view_of"]
