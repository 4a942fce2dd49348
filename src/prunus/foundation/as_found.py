"""Context managers that restore the state of a model and of the process at the end, after errors too."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


class Handle(Protocol):
    """The handle that torch returns for a registered hook."""

    def remove(self) -> None:
        """Remove the hook."""


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Restore the train or eval mode of every submodule at the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of parametrised modules: reading such a weight in train mode changes some of them."""
    moving = [m for m in model.modules() if is_parametrized(m)]
    kept = [(b, b.detach().clone()) for m in moving for b in m.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Set models to eval mode, and restore the mode of every submodule at the end."""
    with modes_kept(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def gradients_put_aside(*models: nn.Module) -> Iterator[None]:
    """Set the gradients of all parameters to None, and restore them at the end."""
    gradients: list[tuple[nn.Parameter, Tensor | None]] = [
        (parameter, parameter.grad) for model in models for parameter in model.parameters()
    ]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def gradients_enabled_for(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters require gradients, and freeze them again at the end."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


@contextmanager
def hooked(handles: Iterable[Handle]) -> Iterator[None]:
    """Remove hooks at the end, also where the generator of handles fails before it has registered all of them."""
    registered: list[Handle] = []
    try:
        for handle in handles:
            registered.append(handle)
        yield
    finally:
        for handle in registered:
            handle.remove()


@contextmanager
def threads_set(count: int | None) -> Iterator[int]:
    """Set the number of intra-op threads of torch, None leaves it; yield the number in use."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from running, for example while time is measured."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random states of torch at the end, on the processor and on every GPU in use."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start from a fixed random state of torch, and restore the states at the end."""
    with random_state_kept():
        torch.manual_seed(seed)
        yield
