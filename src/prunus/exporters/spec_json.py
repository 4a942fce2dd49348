"""Structures of arguments and results (pytree specs) ⇄ JSON; reading one never imports anything."""

from __future__ import annotations

import collections
import json
import sys
from typing import Any

import torch.utils._pytree as pytree

from prunus.errors import ModelError

_LEAF = "*"
_PLAIN_TYPES: dict[str, type] = {"tuple": tuple, "list": list}
_FACTORIES = ("list", "dict", "set", "int", "float", "str")


def encode_spec(spec: Any) -> Any:
    """Return the JSON form of a pytree spec: ``"*"`` for a leaf, else kind, context and parts.

    Raises:
        ModelError: the structure holds a type that pytree cannot name, such as a class local to a function.

    Example:
        >>> encode_spec(pytree.tree_structure((1, [2])))
        {'tuple': ['*', {'list': ['*']}]}
    """
    if spec.is_leaf():
        return _LEAF
    parts = [encode_spec(child) for child in _parts(spec)]
    for name, kind in _PLAIN_TYPES.items():
        if spec.type is kind:
            return {name: parts}
    if spec.type is dict and all(type(k) in (str, int, bool) for k in spec.context):
        return {"dict": parts, "keys": list(spec.context)}
    if spec.type is collections.namedtuple:  # pytree's own mark for all of them
        kind = spec.context
        return {"namedtuple": parts, "class": f"{kind.__module__}:{kind.__qualname__}"}
    try:
        _, told = json.loads(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError) as error:
        raise ModelError(
            f"The structure {spec.type.__module__}.{spec.type.__qualname__} of an argument or result cannot be stored; "
            "register it with torch.utils._pytree and a serialized_type_name, or return tuples, lists and dicts."
        ) from error
    return {"registered": parts, "type": told["type"], "context": told["context"]}


def decode_spec(data: Any) -> Any:
    """Return the spec that `encode_spec` wrote.

    Raises:
        ModelError: a structure whose class is not known to this process.
        ValueError: not a form that `encode_spec` writes.
    """
    if data == _LEAF:
        return pytree.tree_structure(0)
    if type(data) is not dict or not data:
        raise ValueError(f"no structure: {str(data)[:40]!r}")
    name, body = next(iter(data.items()))
    parts = [decode_spec(part) for part in body]
    if name in _PLAIN_TYPES:
        return pytree.TreeSpec(_PLAIN_TYPES[name], None, parts)
    if name == "dict":
        keys = data["keys"]
        if len(keys) != len(parts) or not all(type(k) in (str, int, bool) for k in keys):
            raise ValueError("a dict with other keys than parts")
        return pytree.TreeSpec(dict, list(keys), parts)
    if name == "namedtuple":
        return pytree.TreeSpec(collections.namedtuple, _namedtuple(data["class"]), parts)
    if name == "registered":
        kind, context = _registered(data["type"], data["context"])
        return pytree.TreeSpec(kind, context, parts)
    raise ValueError(f"unknown structure {name!r}")


def _namedtuple(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ModelError(f"The checkpoint returns a named tuple {place!r}; import its module before loading.")
    return found


def _registered(name: str, context: Any) -> tuple[Any, Any]:
    """Let pytree read the context of a type that this process registered, after refusing what would import modules."""
    text = json.dumps(context)
    if "__enum__" in text:
        raise ValueError("a structure that names an enumeration")
    if name == "collections.defaultdict" and (
        context["default_factory_module"] != "builtins" or context["default_factory_name"] not in _FACTORIES
    ):
        raise ValueError(f"a defaultdict with the factory {context['default_factory_name']!r}")
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    try:
        spec = pytree.treespec_loads(json.dumps([1, {"type": name, "context": context, "children_spec": [leaf]}]))
    except NotImplementedError as error:
        raise ModelError(f"The checkpoint uses the structure {name!r}; import its module before loading.") from error
    return spec.type, spec.context


def _parts(spec: Any) -> list[Any]:
    children = spec.children
    return list(children() if callable(children) else children)
