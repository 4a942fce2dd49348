"""A generic registry: it refuses duplicates, suggests the nearest known name, and reads entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from prunus.errors import OptionError, nearest
from prunus.foundation.plugins import Plugin, read_plugins, same_member, warn

T = TypeVar("T")


class Registry(Generic[T]):
    """Map names to members of one role (criteria, allocators, methods, rules …).

    An outside package registers a member with an entry point in ``group``, which names the member itself. Entry points
    are read when a name is not among the members, or when all names are listed, never at import. A member that
    cannot be imported raises where it is requested, and is left out with a warning where all are listed.

    Args:
        role: the word for a member in messages.
        group: the group of entry points; by default ``prunus.<role>s``.
        kind: the type that a member of an outside package must have; None accepts any.

    Example:
        >>> colours = Registry[int]("colour")
        >>> @colours.register("red")
        ... def red() -> int:
        ...     return 1
        >>> colours.names()
        ['red']
    """

    def __init__(self, role: str, group: str = "", *, kind: Any = None) -> None:
        self.role = role
        self.group = group or f"prunus.{role.replace(' ', '_')}s"
        self.kind = kind
        self._members: dict[str, T] = {}
        self._from_plugins: set[str] = set()
        self._waiting: dict[str, Plugin | OptionError] | None = None

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under every given name."""

        def enrol(member: T) -> T:
            for name in names:
                if name in self._from_plugins:
                    # A built-in member whose module is imported late takes its name back.
                    self._from_plugins.discard(name)
                    self._refuse(name, member, "an outside package")
                elif name in self._members:
                    raise OptionError(f"{self.role} {name!r} is registered twice; choose another name.")
                self._members[name] = member
            return member

        return enrol

    @contextmanager
    def lent(self, name: str, member: T) -> Iterator[None]:
        """Register a member for the time of a block, to try one that no package has registered yet.

        Raises:
            OptionError: the name is taken.
        """
        if name in self:
            raise OptionError(f"{self.role} {name!r} is registered already; choose another name.")
        self.register(name)(member)
        try:
            yield
        finally:
            del self._members[name]

    def get(self, name: str) -> T:
        """Return the member called ``name``.

        Raises:
            OptionError: an unknown name, which lists the nearest and all; or a member of an installed package that
                cannot be imported.
        """
        if not isinstance(name, str):
            raise OptionError(f"{self.role} is {name!r}; allowed: a name out of {', '.join(self._known())}.")
        if name not in self._members:
            self._load(name)
        if name not in self._members:
            known = self._known()
            raise OptionError(f"Unknown {self.role} {_short(name)}.{nearest(name, known)} Known: {', '.join(known)}.")
        return self._members[name]

    def find(self, name: str) -> T | None:
        """Return the member called ``name``, or None; warn of one that cannot be imported."""
        if name not in self._members:
            self._load_or_warn(name)
        return self._members.get(name)

    def names(self) -> list[str]:
        """Return every registered name, in order of registration; warn of members that cannot be imported."""
        for name in list(self._read()):
            self._load_or_warn(name)
        return list(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members or name in self._read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _known(self) -> list[str]:
        """Return every name without importing anything."""
        return [*self._members, *self._read()]

    def _read(self) -> dict[str, Plugin | OptionError]:
        """Return name → entry point of members that are not imported yet, or the reason why one cannot be."""
        if self._waiting is None:
            self._waiting = read_plugins(self.role, self.group)
            for name in [name for name in self._waiting if name in self._members]:
                self._check_taken(name, self._waiting.pop(name))
        return self._waiting

    def _check_taken(self, name: str, plugin: Plugin | OptionError) -> None:
        """Warn of an entry point with the name of a member, unless it is that member, registered by its own import."""
        member = self._members[name]
        if not (isinstance(plugin, Plugin) and plugin.imported and same_member(member, plugin.found())):
            self._refuse(name, member, str(plugin))

    def _refuse(self, name: str, member: T, other: str) -> None:
        module = getattr(member, "__module__", type(member).__module__)
        warn(
            f"{self.role} {name!r} of {other} is left out: {name!r} is the name of a member that is enrolled already "
            f"(from {module}). Rename the entry point."
        )

    def _load(self, name: str) -> None:
        """Import one member, if an installed package has it.

        Raises:
            OptionError: it cannot be imported; a second request raises the same error without another try.
        """
        waiting = self._read()
        found = waiting.pop(name, None)  # the import may list all names
        if found is None:
            return
        try:
            if isinstance(found, OptionError):
                raise OptionError(str(found)) from found.__cause__
            member = found.load(self.kind)
        except OptionError as error:
            waiting[name] = error
            raise
        if name not in self._members:  # its own module may have registered it
            self._members[name] = member
            self._from_plugins.add(name)

    def _load_or_warn(self, name: str) -> None:
        try:
            self._load(name)
        except OptionError as error:
            warn(str(error))


def title_of(member: object) -> str:
    """Return the name of a member for messages and records: itself if a name, else its ``__name__`` or its type's.

    Example:
        >>> title_of("uniform"), title_of(len), title_of(3)
        ('uniform', 'len', 'int')
    """
    return member if isinstance(member, str) else str(getattr(member, "__name__", type(member).__name__))


def _short(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:79]}…"


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: a long list of names without a quote and a comma for each.

    Example:
        >>> words("add sub mul")
        ('add', 'sub', 'mul')
    """
    return tuple(text.split())
