"""Run a model over calibration batches and leave it as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import DataError, ModelError, OptionError

LossFunction = Callable[[Any, Any], Tensor]
Progress = Callable[[int, int], None]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold the model in eval mode with gradients on; the mode of every submodule is restored."""
    training = [module for module in model.modules() if module.training]
    # cuDNN computes no backward of an RNN in eval mode.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    switch = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    model.eval()
    try:
        with switch, torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def pairs(batches: Iterable[Any], device: torch.device, progress: Progress | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield each batch as (inputs, targets) on the device; report (done, all or 0 if unknown) after each.

    Raises:
        DataError: there is no batch, or one is not a pair.
    """
    total, done = length_hint(batches, 0), 0
    for batch in batches:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            got = f"{len(batch)} items" if isinstance(batch, Sequence) else f"one {type(batch).__name__}"
            raise DataError(f"calibration batch {done} is {got}; allowed is a pair (inputs, targets). Add the labels.")
        yield moved(batch[0], device), moved(batch[1], device)
        done += 1
        if progress is not None:
            progress(done, total)
    if not done:
        raise DataError("no calibration batches; give at least one pair (inputs, targets). Was the iterator used up?")


def inputs_of(
    batches: Iterable[Any], device: torch.device, progress: Progress | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yield each batch as (inputs, targets or None) on the device; report as `pairs` does.

    A list, or a tuple of two items, is (inputs, targets); a tensor, a mapping or another tuple is inputs alone.

    Raises:
        DataError: there is no batch, or an empty one.
    """
    total, done = length_hint(batches, 0), 0
    for batch in batches:
        pair = isinstance(batch, Sequence) and len(batch) == 2
        inputs, targets = (batch[0], batch[1]) if pair else (batch, None)
        if isinstance(inputs, list):
            inputs = inputs[0] if len(inputs) == 1 else tuple(inputs)
        if isinstance(inputs, (Sequence, Mapping)) and not len(inputs):
            raise DataError(f"calibration batch {done} is empty; allowed: inputs, or a pair (inputs, targets).")
        yield moved(inputs, device), moved(targets, device)
        done += 1
        if progress is not None:
            progress(done, total)
    if not done:
        raise DataError("no calibration batches; give at least one batch of inputs. Was the iterator used up?")


def moved(value: Any, device: torch.device) -> Any:
    """Move every tensor in a nest of mappings, tuples and lists to the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(item, device) for item in value)
    return value


def called(run: Callable[..., Any], inputs: Any) -> Any:
    """Call with inputs that are a tensor, a tuple of positional or a mapping of named inputs."""
    if isinstance(inputs, Mapping):
        return run(**inputs)
    return run(*inputs) if isinstance(inputs, tuple) else run(inputs)


def checked_loss(loss: Tensor) -> Tensor:
    """Return the loss if a gradient can be taken of it.

    Raises:
        OptionError: it is no single number.
        ModelError: it does not depend on the weights through autograd.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise OptionError(f"loss_fn returned {got}; allowed is a tensor with one number. Reduce it by mean or sum.")
    if not loss.requires_grad:
        raise ModelError("the loss carries no gradient; the model detaches its output or runs under no_grad.")
    return loss
