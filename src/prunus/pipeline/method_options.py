"""Options that belong to some methods: which method takes which, and the line where one does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunus.errors import OptionError, shown
from prunus.foundation.defaults import DEFAULTS
from prunus.methods import METHODS, Method
from prunus.methods.hierarchy.settings import TREE_OPTIONS
from prunus.methods.key_path import check_key_path
from prunus.methods.reconnect import check_reconnect

UNITS_OR_WEIGHTS = "'units' or 'weights'"
OPTIONS = ("criterion", "allocator", "search", "judge", "window", "methods", "method_options", *TREE_OPTIONS)
"""The options that single methods take."""
_TAKERS = {
    "window": "'window-wise'",
    "methods": "'integrated'",
    "method_options": "'incremental' or another that trains",
    **dict.fromkeys(TREE_OPTIONS, "hierarchical or multi-scale"),
}
"""The options of few methods → those methods."""


SWITCHES = ("reconnect", "key_path")
"""Arguments of structural methods that may be left out."""


def check_switches(chosen: Method, given: Mapping[str, Any], *, staged: bool) -> None:
    """Refuse arguments of structural methods that the method does not take, and values that are none.

    Raises:
        OptionError: names the argument, what it got, and the methods that take it.
    """
    for name, value in given.items():
        if value is not None and (name not in chosen.switches or staged):
            fits = ", ".join(one for one in METHODS.names() if name in METHODS.get(one).switches)
            raise OptionError(
                f"method {chosen.name!r} takes no {name} (got {value!r}); remove it, or use method {fits} without "
                "stages."
            )
    if given["reconnect"] is not None:
        check_reconnect(given["reconnect"])
    if given["key_path"] is not None:
        check_key_path(given["key_path"])


def check_taken(chosen: Method, given: Mapping[str, Any]) -> None:
    """Refuse options that a method does not take.

    Raises:
        OptionError: names the option, what it got, and the methods that take it.
    """
    for name, value in given.items():
        if value == getattr(DEFAULTS, name) or name in chosen.options:
            continue
        if name == "search":
            raise OptionError(
                f"search (got {value}) starts from an allocator's plan, and method {chosen.name!r} makes its own plan; "
                "remove search or method."
            )
        plain = [part.plain() for part in value] if name == "methods" else value
        raise OptionError(
            f"method {chosen.name!r} takes no {name} (got {shown(plain)}); remove {name} or method, or use method "
            f"{_TAKERS.get(name, UNITS_OR_WEIGHTS)}."
        )


def check_method_options(given: Any) -> None:
    """Refuse settings of a method that are no mapping from names."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"method_options is {given!r}; allowed: a mapping such as {{'threshold': 0.01}}.")
