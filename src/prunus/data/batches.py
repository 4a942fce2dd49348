"""Batches: their form, the call of a model on one, and the tensor of the output that is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any, Protocol, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.errors import DataError, ModelError, OptionError, PrunusError
from prunus.graph.call_form import as_called, is_record, register_record
from prunus.graph.capture import unwrap

Inputs: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"
IGNORED = -100
"""The target of a position that no loss counts, as in torch."""
Batch: TypeAlias = tuple[Inputs, Tensor]


class DataSource(Protocol):
    """Labelled samples that can be iterated over any number of times, always the same ones.

    Example:
        >>> from prunus.data.splits import Split
        >>> source: DataSource = Split(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 0]))
        >>> [len(targets) for _, targets in source.batches(2)]
        [2, 2, 1]
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, targets), in stored order without a seed; a seed determines order and variation."""
        ...


def pair_of(batch: Any, number: int, whose: str = "calibration batch") -> tuple[Any, Any]:
    """Return a batch as (inputs, targets).

    Raises:
        DataError: inputs alone, or more than two items; the message names the batch.
    """
    if not isinstance(batch, Sequence) or len(batch) != 2 or batch[1] is None:
        alone = not isinstance(batch, Sequence) or len(batch) == 2
        got = (
            f"one {type(batch[0] if isinstance(batch, Sequence) else batch).__name__}"
            if alone
            else f"{len(batch)} items"
        )
        raise DataError(f"{whose} {number} is {got}; allowed is a pair (inputs, targets). Add the labels.")
    return batch[0], batch[1]


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise OptionError unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} is {value!r}; allowed: a whole number of at least {least}.")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU for a model without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def cuda_devices(model: nn.Module) -> list[int]:
    """Return the numbers of the GPUs that hold parameters, whose random states the model uses."""
    return sorted({parameter.device.index for parameter in model.parameters() if parameter.is_cuda})


def moved(value: Any, device: torch.device) -> Any:
    """Return a nest of mappings, tuples, lists and dataclasses with every tensor on ``device``, detached.

    Lists become tuples of arguments; inside one nested argument they stay lists.
    """
    if isinstance(value, Mapping) or is_record(value) or hasattr(value, "_fields"):
        return _placed(value, device)
    if isinstance(value, (tuple, list)):
        return tuple(moved(item, device) for item in value)
    return _placed(value, device)


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        # A tensor made in inference mode cannot take part in a backward pass; its copy can.
        return (value.clone() if value.is_inference() else value.detach()).to(device)
    if isinstance(value, Mapping):
        return {key: _placed(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_placed(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_placed(item, device) for item in value]
    if is_record(value):
        register_record(type(value))
        return pytree.tree_map_only(Tensor, lambda tensor: _placed(tensor, device), value)
    return value


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call the model: a tuple as positional, a mapping as keyword arguments, anything else as the only argument.

    A mapping without any name that the module's forward takes is its only argument, see
    `prunus.graph.call_form.as_called`.
    """
    if isinstance(inputs, Mapping) and isinstance(model, nn.Module):
        inputs = as_called(unwrap(model), inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def answer(model: Callable[..., Any], inputs: Any, whose: str = "calibration batch") -> Any:
    """Return the model's output on a batch.

    Raises:
        DataError: the batch does not go through the model.
    """
    try:
        return call(model, inputs)
    except (torch.OutOfMemoryError, PrunusError):
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"a {whose} of shapes {[tuple(tensor.shape) for tensor in tensors_in(inputs)]} does not go through the "
            f"model: {first_line(error)}. Give batches like the example inputs."
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; the name of its class where it has none."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested output (mappings, lists, tuples, dataclasses), in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(tensors_in(item) for item in value.values())
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(tensors_in(item) for item in value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from chain.from_iterable(tensors_in(getattr(value, field.name)) for field in fields(value))


def logits_of(output: Any) -> Tensor:
    """Return the tensor of an output that is scored: its ``logits`` entry, else its first floating-point tensor.

    Raises:
        ModelError: the output holds no floating-point tensor.
    """
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    for tensor in tensors_in(output if named is None else named):
        if tensor.is_floating_point():
            return tensor
    raise ModelError(
        f"the model's output is {type(output).__name__} without a floating-point tensor; "
        "allowed: a tensor, or a tuple, list or mapping that holds one. Wrap the model so that it returns its logits."
    )
