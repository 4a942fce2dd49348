"""One small generic registry: refuses duplicates, names the nearest when a name is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from prunus.errors import OptionError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Map names to members of one role (criteria, allocators, methods, rules …).

    An outside package enrols a member with an entry point in the group ``prunus.<role>``.

    Example:
        >>> colours = Registry[int]("colour")
        >>> @colours.register("red")
        ... def red() -> int:
        ...     return 1
        >>> colours.names()
        ['red']
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self._members: dict[str, T] = {}
        self._entry_points_read = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that enrols its argument under every given name."""

        def enrol(member: T) -> T:
            for name in names:
                if name in self._members:
                    raise OptionError(f"{self.role} {name!r} is registered twice; choose another name.")
                self._members[name] = member
            return member

        return enrol

    def get(self, name: str) -> T:
        """Return the member called ``name``; an unknown name lists the nearest and all."""
        if not isinstance(name, str):
            raise OptionError(f"{self.role} is {name!r}; allowed: a name out of {', '.join(self.names())}.")
        if name not in self._members:
            self._read_entry_points()
        if name not in self._members:
            raise OptionError(
                f"Unknown {self.role} {name!r}.{nearest(name, self._members)} Known: {', '.join(self.names())}."
            )
        return self._members[name]

    def find(self, name: str) -> T | None:
        """Return the member called ``name`` or None."""
        return self._members.get(name)

    def names(self) -> list[str]:
        """Return every enrolled name, in order of enrolment."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        if name not in self._members:
            self._read_entry_points()
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        for point in entry_points(group=f"prunus.{self.role}"):
            if point.name not in self._members:
                self._members[point.name] = point.load()


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: a long list of names without a quote and a comma for each.

    Example:
        >>> words("add sub mul")
        ('add', 'sub', 'mul')
    """
    return tuple(text.split())
