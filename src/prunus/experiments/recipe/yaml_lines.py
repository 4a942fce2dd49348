"""Read YAML as plain values together with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from prunus.errors import RecipeError

Path_ = tuple[str | int, ...]
_TAG = "tag:yaml.org,2002:"
_DEEPEST, _LONGEST_KEY = 40, 60


@dataclass(frozen=True, slots=True)
class Marked:
    """Plain values, and path of keys → line number, counted from 1."""

    values: Any
    lines: Mapping[Path_, int]

    def line(self, path: Path_) -> int:
        """Return the line of ``path``, or of the nearest part above it that has a line."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """YAML with only true/false, whole numbers, decimals (also 1e-3) and null; the rest is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the base class declares it so)


for _name, _pattern, _first in (
    ("bool", r"(?:true|false|True|False)", "tfTF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"(?:~|null|Null|)", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), list(_first))


def read_yaml(text: str, name: str) -> Marked:
    """Return the values and lines of the YAML document ``text``.

    Tags, aliases, duplicated keys and several documents are refused.

    Args:
        text: the document.
        name: the name at the beginning of error messages.

    Raises:
        RecipeError: invalid YAML, or one of the refused things, with its line.

    Example:
        >>> read_yaml("a: {b: 1e-3}", "x.yaml").values
        {'a': {'b': 0.001}}
    """
    try:
        _check_events(text, name)
        node = yaml.compose(text, _Loader)
        lines: dict[Path_, int] = {}
        return Marked(_plain(node, (), lines, name), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{name}:{line}: not valid YAML: {error.problem}; correct the line.") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{name}:{line}: the character {error.character!r} is not allowed in YAML; remove it."
        ) from error


def _check_events(text: str, name: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecipeError(f"{name}:{_line(event)}: nested more than {_DEEPEST} deep; a recipe needs a few levels.")
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"{name}:{_line(event)}: the alias *{event.anchor} is not allowed; write the value out.")


def _plain(node: yaml.Node | None, path: Path_, lines: dict[Path_, int], name: str) -> Any:
    if node is None:
        return None
    line = _line(node)
    lines.setdefault(path, line)
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _plain_mapping(node, path, lines, name)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_plain(child, (*path, index), lines, name) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except ValueError as error:
            raise RecipeError(
                f"{name}:{line}: {node.value[:40]!r} is {_KINDS.get(kind, kind)}; correct the value."
            ) from error
    raise RecipeError(f"{name}:{line}: the tag {node.tag!r} is not allowed; write a plain value.")


def _plain_mapping(node: yaml.MappingNode, path: Path_, lines: dict[Path_, int], name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{name}:{line}: a key must be a plain word; got a list or a section.")
        key = key_node.value
        inner = (*path, key)
        if key in values:
            raise RecipeError(
                f"{name}:{line}: the key {dotted(inner)!r} is given twice, first on line {lines[inner]}; remove one."
            )
        lines[inner] = line
        values[key] = _plain(value_node, inner, lines, name)
    return values


def dotted(path: Path_) -> str:
    """Return ``compare.kept[1]`` for ``("compare", "kept", 1)``."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) or len(part) <= _LONGEST_KEY else f"{part[:_LONGEST_KEY]}…"
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


def _line(part: yaml.Node | yaml.Event) -> int:
    return part.start_mark.line + 1 if part.start_mark else 1


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(text)
    return text.lower() == "true"


def _number(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Any] = {
    "str": str,
    "bool": _boolean,
    "int": int,
    "float": _number,
    "null": lambda text: None,
}
_KINDS = {"bool": "neither true nor false", "int": "no whole number", "float": "no number"}
