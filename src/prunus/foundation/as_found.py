"""Context managers after which a model and the process are as they were found, whatever happened inside."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


class Handle(Protocol):
    """What torch returns for a hook that it registered."""

    def remove(self) -> None:
        """Take the hook away."""


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Give every submodule its train or eval mode back."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put the values of the buffers back where parametrised weights are read in training: reading them moves some."""
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
    """Hold models in eval mode, and give every submodule its mode back."""
    with modes_kept(*models):
        for model in models:
            model.eval()
        yield


@contextmanager
def gradients_put_aside(*models: nn.Module) -> Iterator[None]:
    """Take the gradients of all parameters away, and give each its own back."""
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
    """Let frozen parameters have gradients, and freeze them again."""
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
    """Remove hooks at the end; those of a generator too that fails before it has registered them all."""
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
    """Use so many torch threads within an op, None leaves them as they are; yields how many are used."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from running, as where a clock is read."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random states of torch back, on the processor and on every GPU in use."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run from a fixed random state of torch, and put the states back."""
    with random_state_kept():
        torch.manual_seed(seed)
        yield
