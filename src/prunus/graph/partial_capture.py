"""Capture in parts: where the whole cannot be trusted as one program, its largest submodules that can."""

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
    """What the stages after capture work with.

    Attributes:
        model: the user's model; in parts, a twin of it that shares everything and whose forward calls the parts.
        inputs: what ``model`` is called with.
        graph: the program of that call.
        parts: paths of the captured submodules; empty where the model was captured whole.
        reason: why it was not.
    """

    model: nn.Module
    inputs: Any
    graph: Graph
    parts: tuple[str, ...] = ()
    reason: str = ""

    def restored(self, small: nn.Module, original: nn.Module) -> nn.Module:
        """Return a cut ``model`` with the class and the hooks of the user's model again.

        Raises:
            CaptureError: the cut kept no class; only one that calls the parts would be left.
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

    A whole program counts if it was recorded without values, or if it stays the same for other values of the inputs.
    A part's inputs and outputs are borders and keep their sizes; what lies in no part is left alone.

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
    found = _parts(model, example_inputs)
    if found:
        parts = tuple(found)
        twin, inputs = twin_of(model, parts), tuple(found.values())
        return Captured(twin, inputs, capture(twin, inputs, method="record"), parts, reason)
    if whole is None:
        raise error or CaptureError(reason)
    return Captured(model, example_inputs, whole)


def twin_of(model: nn.Module, parts: Sequence[str]) -> nn.Module:
    """Return a module that shares everything with ``model`` but whose forward calls the parts, each with its inputs.

    It takes one (args, kwargs) for each part and returns their results. Its class is a subclass of the model's.
    """

    def forward(self: nn.Module, *calls: Any) -> list[Any]:
        return [self.get_submodule(path)(*args, **kwargs) for path, (args, kwargs) in zip(parts, calls, strict=True)]

    own = type(model)
    twin: nn.Module = object.__new__(type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__}))
    vars(twin).update({k: type(v)() if k in _HOOKS else v for k, v in vars(model).items()})
    return twin


def _parts(model: nn.Module, example_inputs: Any) -> dict[str, Any]:
    """Return the path of each part with the (args, kwargs) that it was called with first, from the top down."""
    failed, found = {""}, dict[str, Any]()
    for _ in range(_DEPTH):
        seen = _called(model, example_inputs, failed)
        failed = set()
        for path, call in seen.first.items():
            part = model.get_submodule(path)
            if next(part.parameters(), None) is None:
                continue
            if path not in seen.entered_from_outside and _owns_its_tensors(model, part) and _records(model, path, call):
                found[path] = call
            else:
                failed.add(path)
        if not failed:
            break
    return found


@dataclass(slots=True)
class _Calls:
    """Notes the first call of every module that is called straight from one of ``parents``."""

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
    with preserved(model), torch.no_grad(), module_calls(calls):
        try:
            model(*args, **kwargs)
        except Exception:
            calls.first.clear()  # a model that fails on its inputs has said so already
    return calls


def _owns_its_tensors(model: nn.Module, part: nn.Module) -> bool:
    """Whether no tensor of the part is also reached from outside it."""
    inside = {id(m) for m in part.modules()}
    own = {id(t) for t in (*part.parameters(), *part.buffers())}
    outside = [
        t for m in model.modules() if id(m) not in inside for t in (*m._parameters.values(), *m._buffers.values())
    ]
    return not any(id(t) in own for t in outside)


def _records(model: nn.Module, path: str, call: Any) -> bool:
    """Whether the part's program can be recorded without values, from arguments that show all their tensors."""
    if len(opened_leaves(call)) != len(pytree.tree_leaves(call)):
        return False
    try:
        capture(twin_of(model, (path,)), (call,), method="record")
    except CaptureError:
        return False
    return True
