"""A shallow copy of a module tree: the same tensors and objects, with integers that know their attribute."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
from typing import Any

import torch
from torch import nn

from prunus.graph.own_settings import is_view, parts_of, view_of
from prunus.graph.traced import Attribute, Trace

_CONFIGS = ("Config", "Args", "Arguments", "Namespace", "Params", "Options", "Hyperparameters", "Settings", "Spec")
# Longer lists are data, and one or none is what a cut leaves alone.
_LONGEST, _DEEPEST = 64, 3


def twin_with_origins(model: nn.Module, trace: Trace) -> nn.Module:
    """Return a copy of every module around the same tensors, in which whole numbers are `TracedInt`s.

    Attributes of modules and of their classes, tuples, lists and dicts of whole numbers, and each module's own shallow
    copy of its configuration, are followed. The model itself is not touched: other threads may use it meanwhile.
    """
    twins = {id(m): object.__new__(type(m)) for m in model.modules()}
    paths: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), path)
    for module in model.modules():
        twin = twins[id(module)]
        attributes = {k: _rebound(v, twins) for k, v in vars(module).items()}
        for name in ("_parameters", "_buffers"):
            attributes[name] = copy.copy(attributes[name])
        shown = {**_of_class(type(module)), **attributes}
        own = {k: _traced(v, Attribute(paths[id(module)], k), trace) for k, v in shown.items() if k[:1] != "_"}
        vars(twin).update({**attributes, **own})
        derive_lengths_(twin)
    root: nn.Module = twins[id(model)]
    return root


def derive_lengths_(module: nn.Module) -> None:
    """Set the numbers that a layer of einops takes from its ``axes_lengths`` when it is built, and reads instead."""
    own = vars(module)
    if "_axes_lengths" in own and any(kind.__module__.startswith("einops.layers") for kind in type(module).__mro__):
        own["_axes_lengths"] = tuple(own["axes_lengths"].items())


def _of_class(kind: type) -> dict[str, int]:
    """Return the whole numbers that a user's class holds for its modules, as in ``class Block: heads = 4``."""
    kinds = [k for k in reversed(kind.__mro__) if issubclass(k, nn.Module) and not k.__module__.startswith("torch.")]
    return {name: value for k in kinds for name, value in vars(k).items() if type(value) is int}


def _rebound(value: Any, twins: dict[int, Any]) -> Any:
    """Return a value in which modules of the tree are their twins, also inside containers and bound methods."""
    if isinstance(value, nn.Module):
        return twins.get(id(value), value)
    kind = type(value)
    if kind in (list, tuple, set) and _holds_code(value):
        return kind(_rebound(v, twins) for v in value)
    if isinstance(value, dict) and _holds_code(value.values()):
        rebound = copy.copy(value)
        rebound.update({k: _rebound(v, twins) for k, v in value.items()})
        return rebound
    if isinstance(value, types.MethodType) and id(value.__self__) in twins:
        return types.MethodType(value.__func__, twins[id(value.__self__)])
    if isinstance(value, functools.partial):
        return functools.partial(
            _rebound(value.func, twins),
            *(_rebound(a, twins) for a in value.args),
            **{k: _rebound(v, twins) for k, v in value.keywords.items()},
        )
    return value


def _holds_code(values: Any) -> bool:
    return any(isinstance(v, (nn.Module, types.MethodType, functools.partial, list, tuple, dict)) for v in values)


def _traced(value: Any, at: Attribute, trace: Trace, depth: int = 0) -> Any:
    kind = type(value)
    if kind is int:
        return trace.attribute(value, at) if value > 1 else value
    if depth == _DEEPEST:
        return value
    named = issubclass(kind, tuple) and hasattr(kind, "_make")
    if kind in (tuple, list, torch.Size) or named:
        if 0 < len(value) <= _LONGEST and (named or all(type(v) in (int, tuple, list, torch.Size) for v in value)):
            made = [_traced(v, _inside(at, f"[{i}]"), trace, depth + 1) for i, v in enumerate(value)]
            return kind._make(made) if named else kind(made)
        return value
    if kind is dict and 0 < len(value) <= _LONGEST and all(type(k) is str for k in value):
        return {k: _traced(v, _inside(at, f"[{k}]"), trace, depth + 1) for k, v in value.items()}
    if is_config(value):
        return _traced_config(value, at, trace, depth)
    return value


def _traced_config(value: Any, at: Attribute, trace: Trace, depth: int) -> Any:
    if is_view(value):
        shared, own = parts_of(value)
        return view_of(
            _traced_config(shared, at, trace, depth),
            {k: _traced(v, _inside(at, f".{k}"), trace, depth + 1) for k, v in own.items()},
        )
    try:
        traced = copy.copy(value)
        vars(traced).update(
            {k: _traced(v, _inside(at, f".{k}"), trace, depth + 1) for k, v in vars(value).items() if k[:1] != "_"}
        )
    except Exception:  # an object that cannot be copied is no plain configuration
        return value
    return traced


def _inside(at: Attribute, step: str) -> Attribute:
    return Attribute(at.path, at.name + step)


def is_config(value: Any) -> bool:
    """Tell whether an object is a record of settings: a dataclass, or an object whose class is named like one."""
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    return dataclasses.is_dataclass(value) or type(value).__name__.endswith(_CONFIGS)
