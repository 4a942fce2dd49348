"""Structures of arguments and results (pytree specs) ⇄ JSON; reading one never imports anything."""

from __future__ import annotations

import collections
import json
import sys
from typing import Any

import torch.utils._pytree as pytree

from prunus.errors import ModelError
from prunus.foundation.strict_json import parse_json

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
        _, node = json.loads(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError) as error:
        raise ModelError(
            f"The structure {spec.type.__module__}.{spec.type.__qualname__} of an argument or result cannot be stored; "
            "register it with torch.utils._pytree and a serialized_type_name, or return tuples, lists and dicts."
        ) from error
    return {"registered": parts, "type": node["type"], "context": node["context"]}


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
        # A lazy module imports what getattr asks it for; its own dict holds what was imported before.
        found = getattr(found, "__dict__", {}).get(part)
    if not (isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")):
        raise ModelError(f"The checkpoint returns a named tuple {place!r}; import its module before loading.")
    return found


def _registered(name: str, context: Any) -> tuple[Any, Any]:
    """Let pytree read the context of a type that this process registered, after refusing what would import modules."""
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    node = {"type": name, "context": _safe_context(name, context), "children_spec": [leaf]}
    try:
        spec = pytree.treespec_loads(json.dumps([1, node]))
    except NotImplementedError as error:
        raise ModelError(f"The checkpoint uses the structure {name!r}; import its module before loading.") from error
    return spec.type, spec.context


def safe_treespec(text: Any) -> str:
    """Return a structure as pytree writes it, read and written again with nothing in it that would import a module.

    Raises:
        ModelError: a structure whose class is not known to this process.
        ValueError: not the text of a structure, or one that names an enumeration or a factory.
    """
    if type(text) is not str:
        raise ValueError(f"no structure: {str(text)[:40]!r}")
    data = parse_json(text, "a structure")
    if type(data) is not list or len(data) != 2 or data[0] != 1:
        raise ValueError(f"no structure: {text[:40]!r}")
    return json.dumps([1, _safe_node(data[1])])


def _safe_node(node: Any) -> Any:
    if type(node) is not dict or node.keys() != {"type", "context", "children_spec"}:
        raise ValueError(f"no structure: {str(node)[:40]!r}")
    name, context, children = node["type"], node["context"], node["children_spec"]
    if type(children) is not list:
        raise ValueError(f"no list of structures: {str(children)[:40]!r}")
    if name is None:
        if context is not None or children:
            raise ValueError("a leaf with parts")
        return node
    if type(name) is not str or name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
        raise ModelError(f"it uses the structure {str(name)[:60]!r}; import its module before loading")
    parts = [_safe_node(child) for child in children]
    context = _safe_context(name, context)
    if name in _KEYED:
        keys = context["dict_context"] if type(context) is dict else parse_json(context, "keys")
        if type(keys) is not list or len(keys) != len(parts):
            raise ValueError(f"the structure {name!r} has other keys than parts")
    return {"type": name, "context": context, "children_spec": parts}


_KEYED = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")


def _safe_context(name: str, context: Any) -> Any:
    """Return the context of a registered type, with nothing in it that pytree would import.

    pytree reads a context as JSON inside JSON, so escapes hide a key from a search of the text: it is parsed here as
    often as there, and written again from what was found.
    """
    if name == "collections.defaultdict":
        keys = {"default_factory_module", "default_factory_name", "dict_context"}
        if type(context) is not dict or context.keys() != keys:
            raise ValueError("a defaultdict without its factory and its keys")
        factory = context["default_factory_name"]
        if context["default_factory_module"] != "builtins" or factory not in _FACTORIES:
            raise ValueError(f"a defaultdict with the factory {factory!r}")
    if type(context) is str and name != "collections.namedtuple":
        context = json.dumps(parse_json(context, f"the structure {name!r}"))
        _refuse_enumerations(json.loads(context))
    _refuse_enumerations(context)
    return context


def _refuse_enumerations(value: Any) -> None:
    if isinstance(value, dict):
        if "__enum__" in value:
            raise ValueError("a structure that names an enumeration")
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _refuse_enumerations(part)


def _parts(spec: Any) -> list[Any]:
    children = spec.children
    return list(children() if callable(children) else children)
