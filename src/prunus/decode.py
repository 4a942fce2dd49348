"""Turn parsed JSON into frozen records, strictly: no unknown key, no missing key, no silent conversion."""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prunus.errors import DataError, nearest

Record = TypeVar("Record")

_WORDS: dict[Any, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def parse_json(text: str, where: str) -> Any:
    """Parse JSON and refuse what JSON readers usually let through: doubled keys, NaN and infinities.

    Args:
        text: the JSON text.
        where: what the text is (a path, usually); it starts every error message.

    Raises:
        DataError: the text is no JSON, or holds a doubled key or a non-finite number.

    Example:
        >>> parse_json('{"a": 1}', "example")
        {'a': 1}
    """

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"{where}: the key {key!r} stands twice in one object; keep one.")
            found[key] = value
        return found

    def no_constant(name: str) -> Any:
        raise DataError(f"{where}: holds {name}; only finite numbers are allowed, use null for an absent value.")

    try:
        return json.loads(text, object_pairs_hook=no_doubles, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: line {error.lineno}: not JSON ({error.msg}); write the file again.") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to be a record; write the file again.") from None


def decode_record(kind: type[Record], value: Any, where: str) -> Record:
    """Build the dataclass ``kind`` from a JSON object whose keys are its fields.

    A field with a default may be absent. Values keep their type; only a whole number may stand for a float.

    Args:
        kind: a dataclass whose annotations are JSON-like types, other dataclasses, tuples, literals or optionals.
        value: the parsed JSON.
        where: the path of keys so far; it starts every error message.

    Raises:
        DataError: an unknown or absent key, or a value of another type.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {_shown(value)}, expected an object with named fields.")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}.{nearest(key, known)} Allowed: {', '.join(known)}.")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise DataError(f"{where}: the key {name!r} is missing; add it.")
    try:
        return kind(**{key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})
    except DataError as error:
        message = str(error)
        # A record's own range check knows only its class; here the place in the file is known too.
        raise DataError(message if message.startswith(where) else f"{where}: {message}") from None


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _decode(next(part for part in get_args(hint) if part is not type(None)), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(map(repr, get_args(hint)))
            raise DataError(f"{where}: got {_shown(value)}, allowed: {allowed}.")
        return value
    if origin is tuple:
        return _decode_tuple(get_args(hint), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise DataError(f"{where}: got {_shown(value)}, expected an object.")
        return value
    if is_dataclass(hint):
        return decode_record(hint, value, where)  # type: ignore[arg-type]
    return _decode_scalar(hint, value, where)


def _decode_tuple(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: got {_shown(value)}, expected a list.")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_decode(parts[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(parts):
        raise DataError(f"{where}: got {len(value)} values, expected exactly {len(parts)}.")
    return tuple(_decode(part, item, f"{where}[{i}]") for i, (part, item) in enumerate(zip(parts, value, strict=True)))


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    # `type(...) is` and not isinstance: true must not pass for the number 1.
    if type(value) is not hint:
        raise DataError(f"{where}: got {_shown(value)}, expected {_WORDS.get(hint, hint)}.")
    if hint is float and not math.isfinite(value):
        raise DataError(f"{where}: got {_shown(value)}, expected a finite number.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
