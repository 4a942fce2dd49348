"""Restoration of models and of the process after Ctrl-C, which may strike within any context manager."""

from __future__ import annotations

import gc
import logging
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunus.foundation.turns import turn_on

Restore = Callable[[], None]

_HOLDERS = ("user_model", "model", "original")
"""Attributes in which records of prunus hold models."""
_entered = threading.local()


@contextmanager
def as_found_if_interrupted(arguments: Iterable[Any], *, in_place: bool) -> Iterator[None]:
    """Put back models and process if the block ends with an interruption; the outermost block of a thread does it.

    Put back are modes, hooks, attributes, gradients and buffers of the models among the arguments, torch's modes,
    threads and switches, and the random states. Errors need none of it: context managers restore after them. An
    interruption may strike where such a manager begins or ends. Other threads wait for their turn on the same models.

    Args:
        arguments: models, or records that hold them.
        in_place: the block changes its models on purpose; their attributes and buffers then stay as they are.
    """
    if getattr(_entered, "depth", 0):
        yield
        return
    models = [model for value in arguments for model in _models(value)]
    with turn_on(models), _as_found(models, in_place):
        yield


@contextmanager
def _as_found(models: Iterable[nn.Module], in_place: bool) -> Iterator[None]:
    restores = [*_process_states(), *(restore for model in models for restore in _model_states(model, in_place))]
    _entered.depth = 1
    try:
        yield
    except Exception:
        raise
    except BaseException:
        with uninterrupted():
            for restore in restores:
                restore()
        raise
    finally:
        _entered.depth = 0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of a short block that must run whole; it arrives in the main thread alone."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *event: waiting.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(*waiting[0])


def _models(value: Any) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return [value]
    if isinstance(value, (str, int, float, bytes, list, tuple, dict, torch.Tensor)):
        return []
    held = (getattr(value, name, None) for name in _HOLDERS)
    return list({id(model): model for model in held if isinstance(model, nn.Module)}.values())


def _model_states(model: nn.Module, in_place: bool) -> list[Restore]:
    modules = list(model.modules())
    attributes = [(m, dict(vars(m)), _contents(vars(m), hooks_only=in_place)) for m in modules]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [] if in_place else [(b, b.detach().clone()) for b in model.buffers() if b.device.type != "meta"]

    def restore_modules() -> None:
        for module, own, contents in attributes:
            if in_place:
                module.training = own["training"]
                vars(module).pop("_compiled_call_impl", None)
                if "_compiled_call_impl" in own:
                    vars(module)["_compiled_call_impl"] = own["_compiled_call_impl"]
            else:
                vars(module).clear()
                vars(module).update(own)
            for name, content in contents.items():
                _refill(own[name], content)

    def restore_tensors() -> None:
        for parameter, required, gradient in parameters:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    return [restore_modules, restore_tensors]


def _contents(attributes: Mapping[str, Any], *, hooks_only: bool) -> dict[str, Any]:
    return {
        name: value.copy() if len(value) else ()
        for name, value in attributes.items()
        if isinstance(value, (dict, list, set)) and hasattr(value, "copy") and (not hooks_only or "_hooks" in name)
    }


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _process_states() -> list[Restore]:
    """Return what puts back the states of the process and of this thread, modes of torch first."""
    import numpy as np

    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    fast, disabled, collecting = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable, gc.isenabled()
    states = (torch.random.get_rng_state(), random.getstate(), np.random.get_state())
    functions = torch._C._get_torch_function_state()  # type: ignore[attr-defined]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def restore() -> None:
        torch._C._set_torch_function_state(functions)  # type: ignore[attr-defined]
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.backends.mha.set_fastpath_enabled(fast)
        logging.disable(disabled)
        (gc.enable if collecting else gc.disable)()
        torch.random.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return [*_torch_modes(), restore]


def _torch_modes() -> list[Restore]:
    """Return what takes modes of torch off this thread's stacks that an interruption left there."""
    from torch import _ops, overrides
    from torch.utils import _python_dispatch

    stacks: list[tuple[Callable[[], int], Callable[[], Any]]] = [
        (_ops._len_torch_dispatch_stack_pre_dispatch, _ops._pop_mode_from_pre_dispatch),
        (torch._C._len_torch_dispatch_stack, _python_dispatch._pop_mode),
        (torch._C._len_torch_function_stack, overrides._pop_mode),
    ]

    def restoring(length: Callable[[], int], pop: Callable[[], Any]) -> Restore:
        before = length()

        def restore() -> None:
            while length() > before:
                pop()

        return restore

    return [restoring(length, pop) for length, pop in stacks]
