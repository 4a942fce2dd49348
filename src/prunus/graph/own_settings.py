"""Views of a shared configuration: some entries are a module's own, all others are those of the shared object.

The modules of a network share one configuration. Where a cut changes an entry for one module alone, that module gets a
view: it holds its own numbers, and reads and writes everything else in the shared object. So
``model.set_attn_implementation("eager")`` and similar calls reach every module after a cut as before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

_ITSELF = frozenset(("__class__", "__dict__", "__reduce__", "__reduce_ex__", "__copy__", "__deepcopy__"))


class _View:
    """An object with the attributes of ``shared``, except for the entries of ``own``."""

    def __getattribute__(self, name: str) -> Any:
        if name in _ITSELF:
            return object.__getattribute__(self, name)
        parts = object.__getattribute__(self, "__dict__")
        return parts["own"][name] if name in parts["own"] else getattr(parts["shared"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        parts = object.__getattribute__(self, "__dict__")
        if name in parts["own"]:
            parts["own"][name] = value
        else:
            setattr(parts["shared"], name, value)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        parts = object.__getattribute__(self, "__dict__")
        return view_of, (parts["shared"], dict(parts["own"]))


@functools.cache
def _kind_of(kind: type) -> type[Any]:
    if issubclass(kind, _View):
        return kind
    # A subclass of the settings' own class, so that isinstance holds.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_View, kind), names)


def view_of(shared: Any, own: Mapping[str, Any]) -> Any:
    """Return settings that read as ``shared`` except for the entries of ``own``; they can be copied and pickled."""
    kind: type = type(shared)
    view: Any = object.__new__(_kind_of(kind))
    object.__getattribute__(view, "__dict__").update(shared=shared, own=dict(own))
    return view


def is_view(settings: Any) -> bool:
    """Tell whether settings are a view."""
    return issubclass(type(settings), _View)


def parts_of(view: Any) -> tuple[Any, dict[str, Any]]:
    """Return the shared object of a view, and its own entries."""
    parts = object.__getattribute__(view, "__dict__")
    return parts["shared"], parts["own"]


def entries(settings: Any) -> dict[str, Any]:
    """Return the attributes of settings; a view's own entries replace the shared ones."""
    if not is_view(settings):
        return dict(vars(settings))
    shared, own = parts_of(settings)
    return entries(shared) | own
