"""Capture in parts: a model without one program for all inputs is captured as its largest submodules that have one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import CaptureError
from prunus.graph.capture import capture, preserved, split_inputs, unwrap
from prunus.graph.ir import Graph, Ref
from prunus.graph.observer import module_calls
from prunus.graph.open_outputs import opened_leaves
from prunus.graph.value_dependence import what_depends_on_values

_DEPTH = 8
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@dataclass(frozen=True, slots=True)
class Captured:
    """A captured model, whole or in parts, as the later stages use it.

    Attributes:
        model: the user's model; in parts, a copy that shares all tensors and modules and whose forward calls the parts.
        inputs: the arguments of ``model``.
        graph: the program of that call.
        parts: paths of the captured submodules; empty where the model was captured whole.
        reason: the reason why the model was not captured whole.
    """

    model: nn.Module
    inputs: Any
    graph: Graph
    parts: tuple[str, ...] = ()
    reason: str = ""

    def restored(self, small: nn.Module, original: nn.Module) -> nn.Module:
        """Return a cut ``model`` with the class and the hooks of the user's model again.

        Raises:
            CaptureError: the cut replaced the class, so that only a forward that calls the parts would be left.
        """
        if not self.parts:
            return small
        original = unwrap(original)
        if not isinstance(small, type(self.model)) or "prunus_source" in vars(type(small)):
            raise CaptureError(
                f"{type(original).__name__} was captured in parts ({', '.join(self.parts)}) and needs its own forward; "
                "cut it in hybrid mode."
            )
        small.__class__ = type(original)
        vars(small).update({name: copy.copy(vars(original)[name]) for name in _HOOKS})
        return small


def capture_or_parts(model: nn.Module, example_inputs: Any) -> Captured:
    """Capture a model whole, or else its largest submodules whose program depends on shapes alone.

    A whole program is used if it was recorded without values, or if it stays the same for other values of the inputs.
    The sizes of a part's inputs and outputs are frozen; modules in no part are left alone.

    Raises:
        CaptureError: the model fails on its inputs, or no part of it can be captured.
    """
    model = unwrap(model)
    whole, error = None, None
    try:
        whole = capture(model, example_inputs)
        reason = what_depends_on_values(model, example_inputs, whole)
    except CaptureError as failure:
        error, reason = failure, str(failure)
    if whole is not None and not reason:
        return Captured(model, example_inputs, whole)
    calls = _parts(model, example_inputs)
    if calls:
        parts = tuple(calls)
        twin, inputs = twin_of(model, parts), tuple(calls.values())
        return Captured(twin, inputs, capture(twin, inputs, method="record"), parts, reason)
    if whole is None:
        raise error or CaptureError(reason)
    return Captured(model, example_inputs, whole)


def twin_of(model: nn.Module, parts: Sequence[str]) -> nn.Module:
    """Return a copy that shares all tensors and modules with ``model``; its forward runs each part on its inputs.

    It takes one (args, kwargs) for each part and returns their results. Its class is a subclass of the model's.
    """

    def forward(self: nn.Module, *calls: Any) -> list[Any]:
        return [self.get_submodule(path)(*args, **kwargs) for path, (args, kwargs) in zip(parts, calls, strict=True)]

    kind = type(model)
    twin: nn.Module = object.__new__(type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__}))
    vars(twin).update({k: type(v)() if k in _HOOKS else v for k, v in vars(model).items()})
    return twin


def _parts(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    """Return the path of each part with the (args, kwargs) of its first call, from the top down."""
    failed, parts = {""}, dict[str, Any]()
    for _ in range(_DEPTH):
        seen = _called(model, example_inputs, failed)
        failed = set()
        for path, call in seen.first.items():
            part = model.get_submodule(path)
            if next(part.parameters(), None) is None:
                continue
            if path not in seen.entered_from_outside and _owns_its_tensors(model, part) and _records(model, path, call):
                parts[path] = call
            else:
                failed.add(path)
        if not failed:
            break
    return parts


@dataclass(slots=True)
class _Calls:
    """Notes the first call of every module that is called directly by one of ``parents``."""

    paths: dict[int, str]
    parents: set[str]
    first: dict[str, Any] = field(default_factory=dict)
    entered_from_outside: set[str] = field(default_factory=set)
    stack: list[str] = field(default_factory=list)

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> int:
        path = self.paths.get(id(module))
        if path is None:
            return -1
        if self.stack and self.stack[-1] in self.parents and path not in self.first:
            self.first[path] = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
        self.entered_from_outside.update(a for a in _above(path) if a not in self.stack)
        self.stack.append(path)
        return len(self.stack)

    def leave(self, index: int, out: Any) -> None:
        if index > 0:
            del self.stack[index - 1 :]

    def ref(self, tensor: torch.Tensor) -> Ref:
        raise NotImplementedError

    def record(self, *_: Any) -> None:
        raise NotImplementedError


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _called(model: nn.Module, example_inputs: Any, parents: set[str]) -> _Calls:
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), split_inputs(example_inputs))
    paths: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), path)
    calls = _Calls(paths, parents)
    with preserved(model), torch.no_grad(), module_calls(calls, model):
        try:
            model(*args, **kwargs)
        except Exception:
            calls.first.clear()  # the capture has already reported a model that fails on its inputs
    return calls


def _owns_its_tensors(model: nn.Module, part: nn.Module) -> bool:
    """Tell whether all tensors of the part are reached from inside it alone."""
    inside = {id(m) for m in part.modules()}
    own = {id(t) for t in (*part.parameters(), *part.buffers())}
    outside = [
        t for m in model.modules() if id(m) not in inside for t in (*m._parameters.values(), *m._buffers.values())
    ]
    return not any(id(t) in own for t in outside)


def _records(model: nn.Module, path: str, call: Any) -> bool:
    """Tell whether the part's program can be recorded without values, from arguments with all tensors visible."""
    if len(opened_leaves(call)) != len(pytree.tree_leaves(call)):
        return False
    try:
        capture(twin_of(model, (path,)), (call,), method="record")
    except CaptureError:
        return False
    return True
