"""Capture turns a model and its example inputs into a clean `Graph`; the model is left exactly as it was."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import CaptureError, ModelError, OptionError
from prunus.foundation.arguments import door
from prunus.foundation.user_code import user_line
from prunus.graph.call_form import as_called
from prunus.graph.capture_lock import ALONE
from prunus.graph.ir import Graph
from prunus.graph.passes import drop_dead, fold_constants
from prunus.graph.recorder import record

METHODS = ("auto", "record", "run", "export")


@door()
def capture(model: nn.Module, example_inputs: Any, *, method: str = "auto") -> Graph:
    """Capture the ATen program of one forward call in eval mode.

    ``"auto"`` tries in order: a recorder on fake tensors (nothing is computed), the recorder on real tensors (for
    control flow that depends on data), ``torch.export``. Afterwards mode, gradients, hooks, buffers and attributes of
    the model are as before.

    Args:
        model: any ``nn.Module``; DataParallel, DDP and ``torch.compile`` wrappers are removed first.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or the one nest of
            tensors (dict, tuple, dataclass) that the forward takes, see `prunus.graph.call_form.as_called`.
        method: ``auto``, ``record`` (fake tensors), ``run`` (real tensors) or ``export``.

    Raises:
        ModelError: not a module, quantised, or without parameters on one device.
        CaptureError: every method failed; the message names the user's file and line.
    """
    if method not in METHODS:
        raise OptionError(f"capture method {method!r} is unknown; allowed: {', '.join(METHODS)}.")
    model = unwrap(model)
    _refuse(model)
    args, kwargs = split_inputs(as_called(model, example_inputs))
    attempts = {
        "record": lambda: record(model, args, kwargs, fake=True),
        "run": lambda: record(model, *_detached(args, kwargs), fake=False),
        "export": lambda: _export(model, args, kwargs),
    }
    chosen = list(attempts) if method == "auto" else [method]
    failures: list[tuple[str, BaseException]] = []
    with preserved(model):
        for name in chosen:
            try:
                with quiet():
                    graph = attempts[name]()
            except Exception as error:
                failures.append((name, error))
                continue
            return cleaned(graph)
    raise CaptureError(_explain(model, failures)) from failures[-1][1]


def cleaned(graph: Graph) -> Graph:
    """Return a recorded program without unneeded nodes, and with nodes that depend on no input folded to constants."""
    return drop_dead(fold_constants(drop_dead(graph)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging tracebacks and graphs: attempts may fail, and the final error names the reason."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a call from the accepted spellings."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Sequence):
        return tuple(example_inputs), {}
    raise OptionError(
        f"example_inputs is a {type(example_inputs).__name__}; give a tensor, a tuple of arguments or a dict of them."
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _refuse(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(f"The model is a {type(model).__name__}; a torch.nn.Module is needed.")
    for path, module in model.named_modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ModelError(f"Module {path!r} is quantised; prune the float model first, then quantise.")
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(f"Module {path!r} is a TorchScript module; prune the nn.Module it was made from.")
    devices: dict[torch.device, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        devices.setdefault(tensor.device, name)
    if len(devices) > 1:
        names = ", ".join(f"{name!r} on {device}" for device, name in devices.items())
        raise ModelError(f"Parameters lie on several devices ({names}); move the model to one device first.")


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Run in eval mode and restore modes, attributes, buffers and random state afterwards; one thread at a time."""
    with ALONE, _preserved(model):
        yield


@contextlib.contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    state = [(m, dict(m.__dict__), _contents(m.__dict__)) for m in modules]
    values = [(b, b.detach().clone()) for b in model.buffers() if b.device.type != "meta"]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    random = torch.random.get_rng_state()
    for m in modules:
        m.training = False
    try:
        with _uncompiled(modules):
            yield
    finally:
        torch.random.set_rng_state(random)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for m, attributes, contents in state:
            _put_back(m.__dict__, attributes)
            for name, content in contents.items():
                _refill(attributes[name], content)
        with torch.no_grad():
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextlib.contextmanager
def _uncompiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Run compiled submodules as plain Python: a compiled call hides the modules that it calls."""
    if any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in modules):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


def _contents(attributes: Mapping[str, Any]) -> dict[str, Any]:
    # Most containers of a module are empty, and copies of them would keep the garbage collector busy.
    return {k: v.copy() if v else () for k, v in attributes.items() if type(v) in (dict, list, set)}


def _put_back(own: dict[str, Any], attributes: Mapping[str, Any]) -> None:
    """Restore the attributes of a module; those that did not change are there all the time, for other threads."""
    for name in own.keys() - attributes.keys():
        del own[name]
    own.update(attributes)
    if list(own) != list(attributes):  # one was deleted, and came back at the end
        own.clear()
        own.update(attributes)


def _refill(container: Any, content: Any) -> None:
    """Restore the content of a container where it changed; it stays the same object, since others may refer to it."""
    old, new = (list(c.items()) if isinstance(c, dict) else list(c) for c in (container, content))
    if len(old) == len(new) and all(_is_same(*pair) for pair in zip(old, new, strict=True)):
        return
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) == 2:  # an item of a mapping
        return one[0] is other[0] and one[1] is other[1]
    return one is other


def _detached(args: Any, kwargs: Any) -> tuple[Any, Any]:
    cloned: tuple[Any, Any] = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    return cloned


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    printed = io.StringIO()  # torch prints the whole graph where an export fails
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        program = torch.export.export(model, args, kwargs, strict=False)
    return record(program.module(), args, kwargs, fake=True)


def _explain(model: nn.Module, failures: list[tuple[str, BaseException]]) -> str:
    real = dict(failures).get("run", failures[-1][1])
    reason = str(real).strip().splitlines()[0] if str(real).strip() else type(real).__name__
    line = user_line(real)
    where = f" at {line[0]}:{line[1]}" if line else ""
    return (
        f"{type(model).__name__} could not be captured: its forward failed on these inputs{where}: "
        f"{type(real).__name__}: {reason}. Check that model(*inputs) runs in eval mode."
    )
