"""Checks of the arguments of public functions: an unknown, missing or foreign argument is refused in one line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import numpy as np
from torch import nn

from prunus.errors import ModelError, OptionError, UsageError, nearest, shown

Function = TypeVar("Function", bound=Callable[..., Any])

_SAID = {
    "Analysis": "an Analysis (of prunus.analyse)",
    "Plan": "a Plan (of prunus.plan, Analysis.plan or Plan.load)",
    "Outcome": "an Outcome (of prunus.prune, apply or realise)",
    "Coupling": "a Coupling (of prunus.couple)",
    "Graph": "a Graph (of prunus.capture)",
    "Recipe": "a Recipe (of prunus.load_recipe)",
    "Progress": "an object with start, advance and finish",
    "Module": "a torch.nn.Module",
    "Path": "a path",
    "bool": "True or False",
    "Mapping": "a mapping",
    "NoneType": "None",
}
"""Class name → the words for such an argument in messages, and where one gets it."""


def door(name: str = "") -> Callable[[Function], Function]:
    """Return a decorator of a public function that refuses wrong arguments before anything is done.

    Refused are arguments that the function does not have, those that are missing, and objects of another kind than the
    annotation says, if that names only records of prunus, modules, paths, mappings or truth values. The function itself
    checks the ranges of numbers and names.

    Args:
        name: of the function in messages; its own by default.
    """

    def decorate(function: Function) -> Function:
        called = name or function.__name__
        signature = inspect.signature(function)

        @wraps(function)
        def checked(*args: Any, **values: Any) -> Any:
            try:
                bound = signature.bind(*args, **values)
            except TypeError as error:
                raise _unbound(called, signature, args, values, error) from error
            kinds = _kinds(function)
            for argument, value in bound.arguments.items():
                if argument in kinds and not _is_one(value, kinds[argument]):
                    exchanged = _exchanged(bound.arguments, kinds, argument)
                    order = f" The order is {', '.join(bound.arguments)}." if exchanged else ""
                    raise wrong_kind(called, argument, value, kinds[argument], order)
            from prunus.foundation.interrupted import as_found_if_interrupted

            with as_found_if_interrupted(bound.arguments.values(), in_place=called.endswith("_")):
                return function(*args, **values)

        return cast("Function", checked)

    return decorate


def names(option: str, given: Any, example: str) -> tuple[str, ...]:
    """Return a list of names as a tuple.

    Raises:
        OptionError: a bare text, no list, or something in it that is no text.
    """
    listed = not isinstance(given, str | bytes | Mapping) and hasattr(given, "__iter__")
    found = tuple(given) if listed else ()
    if not listed or not all(isinstance(each, str) for each in found):
        raise OptionError(f"{option} is {shown(given)}; allowed: a list of {example}.")
    return found


def truth(option: str, given: Any) -> None:
    """Refuse what is neither True nor False.

    Raises:
        OptionError: something else.
    """
    if not _is_one(given, (bool,)):
        raise OptionError(f"{option} is {shown(given)}; allowed: True or False.")


def wrong_kind(called: str, argument: str, value: Any, kinds: tuple[Any, ...], advice: str = "") -> UsageError:
    """Return the error of an argument of another kind than allowed, with the advice at its end."""
    allowed = [_SAID.get(kind.__name__, f"a {kind.__name__}") for kind in kinds]
    error = ModelError if nn.Module in kinds else OptionError
    return error(f"{called}: {argument} is {shown(value)}; allowed: {' or '.join(allowed)}.{advice}")


def _unbound(
    called: str, signature: inspect.Signature, args: tuple[Any, ...], values: Mapping[str, Any], error: TypeError
) -> OptionError:
    own = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [p.name for p in own if p.name != "self"]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    unknown = None if open_ended else next((name for name in values if name not in allowed), None)
    if unknown is not None:
        return OptionError(
            f"{called} has no argument {unknown!r}.{nearest(unknown, allowed)} Allowed: {', '.join(allowed)}."
        )
    by_position = [p.name for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(by_position):
        order = ", ".join(name for name in by_position if name != "self") or "nothing"
        return OptionError(
            f"{called} takes {order} by position and all else by name; got {len(args) - len(by_position)} more. Give "
            f"{'it' if len(args) - len(by_position) == 1 else 'them'} as name=value."
        )
    given = {*by_position[: len(args)], *values}
    missing = [p.name for p in own if p.default is p.empty and p.name not in given]
    if missing:
        return OptionError(f"{called} needs {' and '.join(missing)}; give {missing[0]}=….")
    return OptionError(f"{called}: {error}; give every argument once.")


def _exchanged(given: Mapping[str, Any], kinds: Mapping[str, tuple[Any, ...]], argument: str) -> bool:
    """Return whether an argument and another one would both fit in each other's place."""
    others = [name for name in given if name in kinds and name != argument]
    return any(_is_one(given[argument], kinds[o]) and _is_one(given[o], kinds[argument]) for o in others)


@cache
def _kinds(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """Return argument → its allowed classes, for arguments whose classes can all be checked."""
    found = {}
    # typing.get_type_hints would resolve texts inside aliases of other modules with the names of this one.
    for name, hint in inspect.get_annotations(function, eval_str=True).items():
        kinds = _told_apart(hint)
        if kinds and name != "return":
            found[name] = kinds
    return found


def _told_apart(hint: Any) -> tuple[Any, ...]:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [Mapping if get_origin(option) is Mapping else option for option in options]
    if Path in kinds:  # a text given for a path is a path
        kinds = [kind for kind in kinds if kind is not str]
    known = all(_is_known(kind) for kind in kinds)
    return tuple(kinds) if known and any(kind not in (NoneType, Mapping) for kind in kinds) else ()


def _is_known(kind: Any) -> bool:
    if kind in (NoneType, bool, Path, Mapping):
        return True
    if not inspect.isclass(kind):
        return False
    own = kind.__module__.startswith("prunus.") and (
        not getattr(kind, "_is_protocol", False) or getattr(kind, "_is_runtime_protocol", False)
    )
    return own or issubclass(kind, nn.Module)


def _is_one(value: Any, kinds: tuple[Any, ...]) -> bool:
    wider = {Path: (str, os.PathLike), bool: (bool, np.bool_)}
    return any(isinstance(value, wider.get(kind, kind)) for kind in kinds)
