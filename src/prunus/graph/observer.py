"""Observation of a running forward: every op before autograd decomposes it, every call of a module."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph import grouped_mm  # noqa: F401  (defines an op)
from prunus.graph.ir import Ref

_CALL = "_compiled_call_impl"
_HERE = __file__.rpartition("/")[0] + "/"
_LIBRARY = (torch.__file__.rpartition("/")[0] + "/", _HERE, "<")


class Watcher(Protocol):
    """The receiver of observed ops and module calls."""

    def ref(self, tensor: torch.Tensor) -> Ref:
        """Take note that a tensor is about to be used."""

    def record(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Take note that an op has run."""

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> int:
        """Take note that a module is called."""

    def leave(self, index: int, out: Any) -> None:
        """Take note that a module has returned."""


def source_line() -> str:
    """Return the running line of the model: the innermost frame outside torch; empty where there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARY):
            return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
        # Frames further out called the capture and are no part of the model.
        if frame.f_back is None or name == f"{_HERE}recorder.py":
            break
        frame = frame.f_back
    return ""


@functools.cache
def schema_of(func: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Return (name, default, keyword-only) of every argument of an op."""
    return tuple(
        (a.name, a.default_value if a.has_default_value() else None, a.kwarg_only) for a in func._schema.arguments
    )


def bind(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every schema argument of a call by name, defaults included."""
    bound = {}
    for i, (name, default, _) in enumerate(schema_of(func)):
        bound[name] = args[i] if i < len(args) else kwargs.get(name, default)
    return bound


def _stand_in(func: Any) -> Any:
    """Return the function that computes the shape: the op itself, unless torch's shape function is too strict."""
    if func in (torch.ops.aten._grouped_mm.default, torch.ops.prunus.grouped_mm.default):
        return functools.partial(_grouped_mm, func)
    if func in _DROPOUTS:
        return functools.partial(_another_object, func)
    return func


_DROPOUTS = (
    torch.ops.aten.dropout.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
)


def _another_object(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return another object than x, so that readers of x and of dropout(x) stay distinct: they differ in training."""
    out: torch.Tensor = func(x, *args, **kwargs)
    return torch.ops.aten.alias.default(out) if out is x else out


def _grouped_mm(func: Any, mat_a: torch.Tensor, mat_b: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Accept any float type on fake tensors (torch's shape function takes bfloat16 alone)."""
    if "FakeTensor" not in type(mat_a).__name__ or (mat_a.dim(), mat_b.dim()) != (2, 3):
        result: torch.Tensor = func(mat_a, mat_b, *args, **kwargs)
        return result
    return mat_a.new_empty(mat_a.shape[0], mat_b.shape[-1])


@functools.cache
def ops_mode() -> type:
    """Return the class of the dispatch mode that sees ops before autograd decomposes them; its import is slow.

    Its argument is the function that runs an op: ``(op, args, kwargs) → result``.
    """
    from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class _Mode(ProxyTorchDispatchMode):  # type: ignore[no-untyped-call]
        """A subclass of torch's proxy mode: the pre-dispatch key accepts no other family of modes."""

        def __init__(self, run_op: Callable[[Any, Any, Any], Any]) -> None:
            TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)  # type: ignore[no-untyped-call]
            self.run_op = run_op

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.run_op(func, args, kwargs or {})

        def __enter__(self) -> Any:
            return TorchDispatchMode.__enter__(self)  # type: ignore[no-untyped-call]

        def __exit__(self, *error: Any) -> None:
            TorchDispatchMode.__exit__(self, *error)  # type: ignore[no-untyped-call]

    return _Mode


def recording(recorder: Watcher) -> Any:
    """Return the mode that shows every op to a recorder."""
    from prunus.graph.shapes import by_formula

    def run_op(func: Any, args: Any, kwargs: Any) -> Any:
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor):
                recorder.ref(value)
        out = by_formula(func, args, kwargs)
        if out is None:
            out = _stand_in(func)(*args, **kwargs)
        recorder.record(func, args, kwargs, out)
        return out

    return ops_mode()(run_op)


@contextlib.contextmanager
def module_calls(recorder: Watcher, model: nn.Module) -> Iterator[None]:
    """Show the recorder every call that this thread makes of a module of ``model``, from the outside in.

    Only these modules are changed, and put back at the end; a call that another thread makes of them runs as before.
    """
    thread = threading.get_ident()

    def call(module: nn.Module, plain: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return plain(*args, **kwargs)
        # The recorder's own reads of tensors are no part of the model, so function modes must not see them.
        with torch._C.DisableTorchFunction():
            index = recorder.enter(module, args, kwargs)
        out = plain(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            recorder.leave(index, out)
        return out

    changed: list[tuple[nn.Module, bool, Any]] = []
    try:
        for module in model.modules():
            own = vars(module)
            before = own.get(_CALL)
            changed.append((module, _CALL in own, before))
            # torch calls this attribute, where there is one, in the place of the module's hooks and forward.
            own[_CALL] = functools.partial(call, module, before or module._call_impl)
        yield
    finally:
        for module, had, before in changed:
            if had:
                vars(module)[_CALL] = before
            else:
                vars(module).pop(_CALL, None)
