"""Turn parsed JSON into frozen records, strictly: no unknown key, no missing key, no silent conversion."""

from __future__ import annotations

import functools
import json
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from prunus.errors import DataError, nearest

Record = TypeVar("Record")

_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "an object",
}


def parse_json(text: str, where: str) -> Any:
    """Parse JSON and refuse what JSON readers usually accept: doubled keys, NaN and infinities.

    Args:
        text: the JSON text.
        where: the source of the text (a path, usually); it starts every error message.

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
                raise DataError(f"{where}: the key {key[:60]!r} occurs twice in one object; keep one.")
            found[key] = value
        return found

    def no_constant(name: str) -> Any:
        raise DataError(f"{where}: holds {name}; only finite numbers are allowed, use null for an absent value.")

    try:
        return json.loads(text, object_pairs_hook=no_doubles, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: line {error.lineno}: not JSON ({error.msg}); write the file again.") from None
    except ValueError:  # Python reads no whole number of more than some thousand digits
        raise DataError(f"{where}: holds a number with too many digits; write the file again.") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to be a record; write the file again.") from None


def read_text(path: Path, most: int) -> str:
    """Return the text of a file whose size is known before it is read.

    Args:
        path: the file.
        most: the most bytes that it may have.

    Raises:
        DataError: a longer file, or bytes that are no UTF-8 text.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path} has more than {most:,} bytes, which is what such a file may have; write it again.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text, from byte {error.start} on; write the file again.") from None


def decode_record(kind: type[Record], value: Any, where: str) -> Record:
    """Build the dataclass ``kind`` from a JSON object whose keys are its fields.

    A field with a default may be absent. Values keep their type; only a whole number may stand for a float.

    Args:
        kind: a dataclass whose annotations are JSON-like types, other dataclasses, tuples, literals or optionals.
        value: the parsed JSON.
        where: the source of the JSON; it starts every error message, the path of keys follows.

    Raises:
        DataError: an unknown or absent key, or a value of another type.
    """
    try:
        record: Record = _adapter(kind).validate_json(json.dumps([value]), strict=True)[0]  # type: ignore[arg-type]
    except ValidationError as error:
        raise _refused(kind, error.errors(include_url=False)[0], where) from None
    except DataError as error:
        # A record's own range check knows only its class; this error names the file too.
        raise DataError(f"{where}: {error}") from None
    return record


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    # A plain dataclass follows the configuration of the type around it, here a tuple of one.
    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid", allow_inf_nan=False))  # type: ignore[valid-type]


def _refused(kind: Any, details: ErrorDetails, where: str) -> DataError:
    path = details["loc"][1:]
    if details["type"] in ("missing", "unexpected_keyword_argument") and isinstance(path[-1], str):
        owner, key = _hint_at(kind, path[:-1]), path[-1]
        place = where + _written(path[:-1])
        if details["type"] == "missing":
            return DataError(f"{place}: the key {key!r} is missing; add it.")
        known = [field.name for field in fields(owner)]
        return DataError(f"{place}: unknown key {key[:60]!r}.{nearest(key[:60], known)} Allowed: {', '.join(known)}.")
    if details["type"] == "missing":  # of a tuple of fixed length
        path = path[:-1]
    expected = "expected a finite number" if details["type"] == "finite_number" else _expected(_hint_at(kind, path))
    return DataError(f"{where}{_written(path)}: got {_shown(details['input'])}, {expected}.")


def _written(path: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _hint_at(kind: Any, path: tuple[int | str, ...]) -> Any:
    """Return the annotation of the value at a path of keys, without the ``None`` of an optional."""
    hint = kind
    for part in path:
        if isinstance(part, str):
            hint = get_type_hints(hint)[part]
        else:
            parts = get_args(hint)
            hint = parts[0] if parts[-1] is Ellipsis else parts[part]
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(option for option in get_args(hint) if option is not types.NoneType)
    return hint


def _expected(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return f"allowed: {', '.join(map(repr, get_args(hint)))}"
    if origin is tuple and Ellipsis not in get_args(hint):
        return f"expected exactly {len(get_args(hint))} values"
    if is_dataclass(hint):
        return "expected an object with named fields"
    return f"expected {_WORDS.get(origin or hint, str(hint))}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
