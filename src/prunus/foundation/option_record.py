"""Option records: frozen dataclasses that check their own values, in calls and in recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from prunus.errors import OptionError, nearest

Record = TypeVar("Record")
Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def option_record(cls: type[Record]) -> type[Record]:
    """Turn a class into a frozen dataclass whose constructor refuses a wrong value with one `OptionError`.

    The description of a field completes the sentence "allowed: …". Each field is strict by itself: a strict class would
    refuse mappings, and a recipe gives its sections as mappings.
    """
    made: Any = dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))(cls)
    validated = made.__init__

    @wraps(validated)
    def init(self: object, *args: Any, **values: Any) -> None:
        try:
            validated(self, *args, **values)
        except ValidationError as error:
            raise _refused(made, error.errors(include_url=False)[0]) from error

    made.__init__ = init
    return cast("type[Record]", made)


def accepted_by(check: Callable[[Value], object]) -> Callable[[Value], Value]:
    """Return a validator that runs ``check`` and turns its `OptionError` into a ValueError for pydantic."""

    def validated(value: Value) -> Value:
        try:
            check(value)
        except OptionError as error:
            raise ValueError(str(error).rstrip(".")) from error
        return value

    return validated


def _refused(record: type[Any], details: ErrorDetails) -> OptionError:
    names = [field.name for field in fields(record)]
    # pydantic names an argument by position with its number.
    where = [names[part] if isinstance(part, int) and part < len(names) else str(part) for part in details["loc"]]
    name = where[0] if where else ""
    kind = details["type"]
    if kind == "value_error":
        return OptionError(f"{details['ctx']['error']}.")
    if kind == "missing":
        return OptionError(f"{name} is missing; give it: {_allowed(record, name)}.")
    if name not in names:
        return OptionError(
            f"{record.__name__} has no option {name!r}.{nearest(name, names)} Allowed: {', '.join(names)}."
        )
    return OptionError(f"{name} is {details['input']!r}; allowed: {_allowed(record, name)}.")


def _allowed(record: type[Any], name: str) -> str:
    field = record.__pydantic_fields__.get(name)
    return (field.description if field else None) or "another value"
