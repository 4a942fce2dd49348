"""Classes made at run time around a generated forward, and their way through pickle and copy."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunus.surgery.rewriting.emit import compile_forward


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedClass:
    """A subclass of a module's own class with a generated forward; pickle stores what it is made of.

    Attributes:
        base: the class below it, itself generated where a network was cut twice.
        source: the text of its forward.
        names: the objects that the text names.
        made: the class.
    """

    base: type[nn.Module] | GeneratedClass
    source: str
    names: Mapping[str, Any]
    made: type[nn.Module] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        own = self.base.made if isinstance(self.base, GeneratedClass) else self.base
        body: dict[str, Any] = {
            "forward": compile_forward(self.source, self.names, own.__name__),
            "__module__": own.__module__,
            "__qualname__": own.__qualname__,
            "__doc__": own.__doc__,
            "__reduce_ex__": _reduced,
            "prunus_source": self.source,
            _CLASS: self,
        }
        object.__setattr__(self, "made", type(own.__name__, (own,), body))

    @classmethod
    def around(cls, own: type[nn.Module], source: str, names: Mapping[str, Any]) -> GeneratedClass:
        """Make a subclass of a class, which may be a generated one."""
        return cls(vars(own).get(_CLASS, own), source, dict(names))

    def __reduce__(self) -> tuple[Any, ...]:
        return GeneratedClass, (self.base, self.source, self.names)

    # A class is shared by all copies of its instances.
    def __copy__(self) -> GeneratedClass:
        return self

    def __deepcopy__(self, memo: Any) -> GeneratedClass:
        return self


_CLASS = "_prunus_class"


def _reduced(module: nn.Module, protocol: Any) -> str | tuple[Any, ...]:
    """Reduce an instance of a generated class: what its own class says, with the recipe in place of the class."""
    kind = type(module)
    found: str | tuple[Any, ...] = super(_lowest_generated(kind), module).__reduce_ex__(max(int(protocol), 2))
    if isinstance(found, str) or found[0] is not copyreg.__newobj__ or found[1][0] is not kind:  # type: ignore[attr-defined]
        return found
    return (_instance, (vars(kind)[_CLASS], *found[1][1:]), *found[2:])


def _lowest_generated(kind: type[nn.Module]) -> Any:
    """Return the last generated class before the class that a person wrote."""
    return next(c for c in reversed(kind.__mro__) if _CLASS in vars(c))


def _instance(generated: GeneratedClass, *arguments: Any) -> nn.Module:
    made: nn.Module = generated.made.__new__(generated.made, *arguments)
    return made
