"""Runs of a model over calibration batches that leave the model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.data.batches import first_line, moved, pair_of
from prunus.errors import DataError, ModelError, OptionError
from prunus.foundation.as_found import in_eval_mode, random_state_kept

LossFunction = Callable[[Any, Any], Tensor]
Progress = Callable[[int, int], None]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold the model in eval mode with gradients on; the modes of all submodules and the random state are restored."""
    # cuDNN computes no backward of an RNN in eval mode.
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    switch = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    # A model may draw random numbers in eval mode, too: dropout that is always on.
    with in_eval_mode(model), switch, torch.enable_grad(), random_state_kept():
        yield


def batches_of(data: Any, name: str = "calibration data") -> Iterable[Any]:
    """Return the batches of calibration data; one tensor of samples is one batch.

    Raises:
        DataError: neither batches, nor a split with ``batches()``, nor a tensor; or one pair (inputs, targets).
    """
    if isinstance(data, Tensor):
        return [data]
    if callable(getattr(data, "batches", None)):
        batches: Iterable[Any] = data.batches()
        return batches
    if not isinstance(data, Iterable) or isinstance(data, (str, Mapping)):
        raise DataError(
            f"{name} is a {type(data).__name__}; allowed: an iterable of batches, a split or a tensor. Put "
            "one batch into a list, a data set into a DataLoader."
        )
    if isinstance(data, tuple) and len(data) == 2 and _is_pair(*data):
        raise DataError(
            f"{name} is one pair (inputs, targets); allowed: an iterable of such pairs. Give [(inputs, targets)], or "
            "a DataLoader."
        )
    return data


def _is_pair(first: Any, second: Any) -> bool:
    """Tell whether two values are samples with their targets and not two batches of samples."""
    if isinstance(first, Mapping) and isinstance(second, Tensor):
        return True
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    return first.dim() > second.dim() > 0 and len(first) == len(second)


def pairs(batches: Iterable[Any], device: torch.device, progress: Progress | None = None) -> Iterator[tuple[Any, Any]]:
    """Yield each batch as (inputs, targets) on the device; report (done, total or 0 if unknown) after each.

    Raises:
        DataError: there is no batch, or one is not a pair.
    """
    total, done = length_hint(batches, 0), 0
    for batch in batches_of(batches):
        inputs, targets = pair_of(batch, done)
        _check_samples(inputs, done)
        yield moved(inputs, device), moved(targets, device)
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
    for batch in batches_of(batches):
        pair = isinstance(batch, Sequence) and len(batch) == 2
        inputs, targets = (batch[0], batch[1]) if pair else (batch, None)
        if isinstance(inputs, list):
            inputs = inputs[0] if len(inputs) == 1 else tuple(inputs)
        _check_samples(inputs, done)
        yield moved(inputs, device), moved(targets, device)
        done += 1
        if progress is not None:
            progress(done, total)
    if not done:
        raise DataError("no calibration batches; give at least one batch of inputs. Was the iterator used up?")


def _check_samples(inputs: Any, number: int) -> None:
    """Refuse a batch without a tensor, or whose first tensor has no samples.

    Raises:
        DataError: such a batch.
    """
    first = next((x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)), None)
    if first is None or first.dim() == 0 or not len(first):
        raise DataError(
            f"calibration batch {number} holds no samples; allowed: inputs, or a pair (inputs, targets), of tensors "
            "with the samples on dim 0."
        )


def loss_on(loss_fn: LossFunction, outputs: Any, targets: Any) -> Tensor:
    """Return the loss of a batch, checked as by `checked_loss`.

    Raises:
        DataError: the loss does not take these targets.
    """
    try:
        loss = loss_fn(outputs, targets)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"the loss does not take the outputs and targets{_form(targets)} of a calibration batch: "
            f"{first_line(error)}. Give targets that fit it; class numbers for cross-entropy."
        ) from error
    return checked_loss(loss)


def _form(value: Any) -> str:
    return f" {tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f" ({type(value).__name__})"


def checked_loss(loss: Tensor) -> Tensor:
    """Return the loss if it has a gradient.

    Raises:
        OptionError: the loss is no single number.
        ModelError: the loss does not depend on the weights through autograd.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise OptionError(f"loss_fn returned {got}; allowed is a tensor with one number. Reduce it by mean or sum.")
    if not loss.requires_grad:
        raise ModelError("the loss carries no gradient; the model detaches its output or runs under no_grad.")
    return loss
