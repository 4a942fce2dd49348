"""The messages of invalid recipes, made from the findings of pydantic; `loading` adds the line of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from prunus.errors import nearest
from prunus.experiments.recipe.schema import Recipe
from prunus.experiments.recipe.yaml_lines import Path_, dotted


class Finding(NamedTuple):
    """One problem of a recipe, and the path of its key."""

    path: Path_
    text: str


def findings(error: ValidationError) -> list[Finding]:
    """Return one finding for each key that is wrong, in the order of the schema."""
    found: dict[Path_, Finding] = {}
    for details in error.errors(include_url=False):
        finding = _finding(details)
        found.setdefault(finding.path, finding)
    # A union reports its failed arms beside the failed element, which is more precise.
    outer = {path[:depth] for path in found for depth in range(len(path))}
    return [finding for path, finding in found.items() if path not in outer]


def _finding(details: ErrorDetails) -> Finding:
    path = _known_part(details["loc"])
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        section, key = (
            _known_part(details["loc"][:-1]),
            str(details["loc"][-1])[:60],
        )  # the user's own, brackets and all
        path = (*section, key)
        keys = sorted(_section(section).__pydantic_fields__)
        return Finding(path, f"unknown key {dotted(path)!r}.{nearest(key, keys)} Allowed here: {', '.join(keys)}.")
    allowed = _allowed(path)
    if details["type"] == "missing":
        return Finding(path, f"the key {dotted(path)!r} is missing; add it: {allowed}.")
    if details["type"] == "value_error":
        problem = str(details["ctx"]["error"])
        return Finding(
            path, f"{dotted(path)}: {problem}{'' if 'allowed: ' in problem.lower() else f'; allowed: {allowed}'}."
        )
    return Finding(path, f"{dotted(path)}: got {shown(details['input'])}; allowed: {allowed}.")


def shown(value: Any) -> str:
    """Return a short text for a value, with its kind where the kind is wrong."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else "a list"
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"the text {text}" if isinstance(value, str) else text


_ARMS = ("bool", "float", "int", "str")
"""The names that pydantic gives the arms of a union of plain types."""


def _known_part(loc: tuple[int | str, ...]) -> Path_:
    """Drop the parts of a location that pydantic adds for the arms of a union."""
    return tuple(
        part
        for part in loc
        if isinstance(part, int) or not ("[" in part or "(" in part or part.removeprefix("constrained-") in _ARMS)
    )


def _section(path: Path_) -> Any:
    """Return the class of a section, whose ``__pydantic_fields__`` are its keys."""
    model: Any = Recipe
    for part in path:
        if isinstance(part, int):
            continue
        field = model.__pydantic_fields__.get(part)
        inner = next(_sections_in(field.annotation), None) if field else None
        if inner is None:
            break
        model = inner
    return model


def _sections_in(annotation: Any) -> Iterator[Any]:
    """Yield the sections that a field may hold: directly, in a list, or beside null."""
    if hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


def _allowed(path: Path_) -> str:
    keys = [part for part in path if isinstance(part, str)]
    if not keys:
        return f"a section with the keys {', '.join(Recipe.model_fields)}"
    # Keys of a mapping have no own description: that of the mapping applies.
    fields = (
        _section(tuple(keys[:depth])).__pydantic_fields__.get(keys[depth]) for depth in reversed(range(len(keys)))
    )
    return next((field.description for field in fields if field is not None and field.description), "another value")
