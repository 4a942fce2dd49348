"""Entry points: members that installed packages add to a registry, read when they are first requested."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from prunus.errors import OptionError

SWITCH = "PRUNUS_PLUGINS"
"""Environment variable; ``off`` leaves the entry points of all packages unread."""


class PluginWarning(UserWarning):
    """A member of an installed package was left out; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of a group, not yet imported.

    Attributes:
        role: the role of the registry, as in messages.
        name: the name under which the package registers its member.
        point: the entry point.
    """

    role: str
    name: str
    point: EntryPoint

    def __str__(self) -> str:
        package = self.point.dist.name if self.point.dist is not None else "of an unknown package"
        return f"package {package!r}, entry point '{self.point.group}: {self.name} = {self.point.value}'"

    @property
    def imported(self) -> bool:
        """Return whether the module of the member is imported already, so that `found` runs no code."""
        return self.point.module in sys.modules

    def found(self) -> object:
        """Return the object that the entry point names in its imported module, or None."""
        value: object = sys.modules[self.point.module]
        for part in filter(None, (self.point.attr or "").split(".")):
            value = getattr(value, part, None)
        return value

    def load(self, kind: Any) -> Any:
        """Import the member.

        Args:
            kind: the type that it must have; None accepts any.

        Raises:
            OptionError: the import fails, or what it gives has another type; one line names package and entry point.
        """
        try:
            member = self.point.load()
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            message = " ".join(str(error).split()) or "no message"
            raise OptionError(
                f"{self.role} {self.name!r} cannot be imported ({self}): {type(error).__name__}: {message}. Repair "
                "that package, or uninstall it."
            ) from error
        if kind is not None and not isinstance(member, kind):
            raise OptionError(
                f"{self.role} {self.name!r} is a {type(member).__name__} ({self}); allowed: a {_named(kind)}. Let the "
                "entry point name the member itself."
            )
        return member


def read_plugins(role: str, group: str) -> dict[str, Plugin | OptionError]:
    """Return name → entry point of a group; a name that several packages use maps to an error that says so.

    Nothing is imported. The environment variable ``PRUNUS_PLUGINS=off`` gives none.
    """
    found: dict[str, list[Plugin]] = {}
    if os.environ.get(SWITCH, "").strip().lower() != "off":
        for point in entry_points(group=group):
            found.setdefault(point.name, []).append(Plugin(role, point.name, point))
    return {name: plugins[0] if len(plugins) == 1 else _shared(plugins) for name, plugins in found.items()}


def _shared(plugins: list[Plugin]) -> OptionError:
    first, second = plugins[:2]
    return OptionError(
        f"{first.role} {first.name!r} comes from {first} and from {second}; neither is taken. Rename one, or uninstall "
        "it."
    )


def same_member(member: object, loaded: object) -> bool:
    """Return whether a member is the object of an entry point, or the record that a decorator made of it."""
    inner = [getattr(member, f.name) for f in fields(member)] if is_dataclass(member) else []
    return any(part is loaded for part in (member, *inner))


def warn(text: str) -> None:
    """Warn that a member of an installed package was left out."""
    warnings.warn(text, PluginWarning, stacklevel=4)


def _named(kind: Any) -> str:
    return "function" if kind.__name__ == "Callable" else f"prunus {kind.__name__}"
