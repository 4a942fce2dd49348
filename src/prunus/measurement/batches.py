"""What a batch is, how a model is called on one, and which tensor of its answer counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from prunus.errors import DataError, ModelError, OptionError

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]"
Batch: TypeAlias = tuple[Inputs, Tensor]


class DataSource(Protocol):
    """Labelled samples that can be walked through as often as needed, always the same ones.

    Example:
        >>> from prunus.workloads.splits import Split
        >>> source: DataSource = Split(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 0]))
        >>> [len(targets) for _, targets in source.batches(2)]
        [2, 2, 1]
    """

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, targets); in stored order without a seed; a seed alone decides order and variation."""
        ...


def pair_of(batch: Any, number: int, whose: str = "calibration batch") -> tuple[Any, Any]:
    """Return a batch as (inputs, targets).

    Raises:
        DataError: inputs alone, or more than two things; names the batch.
    """
    if not isinstance(batch, Sequence) or len(batch) != 2:
        got = f"{len(batch)} items" if isinstance(batch, Sequence) else f"one {type(batch).__name__}"
        raise DataError(f"{whose} {number} is {got}; allowed is a pair (inputs, targets). Add the labels.")
    return batch[0], batch[1]


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise OptionError unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} is {value!r}; allowed: a whole number of at least {least}.")


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's first parameter or buffer lives; the CPU for a model without any."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def cuda_devices(model: nn.Module) -> list[int]:
    """Return the numbers of the GPUs that hold parameters: random states there are a model's concern, too."""
    return sorted({parameter.device.index for parameter in model.parameters() if parameter.is_cuda})


def moved(value: Any, device: torch.device) -> Any:
    """Return a nest of mappings, tuples and lists with every tensor on ``device``, off the graph that made it."""
    if isinstance(value, Tensor):
        # What inference mode made cannot take part in a backward pass; a copy of it can.
        return (value.clone() if value.is_inference() else value.detach()).to(device)
    if isinstance(value, Mapping):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(moved(item, device) for item in value)
    return value


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call the model: a tuple as positional, a mapping as keyword arguments, anything else as the one argument."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of a nested answer (mappings, lists, tuples), in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(tensors_in(item) for item in value.values())
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(tensors_in(item) for item in value)


def logits_of(output: Any) -> Tensor:
    """Return the tensor of an answer that is scored: its ``logits`` entry, else its first floating-point tensor.

    Raises:
        ModelError: the answer holds no floating-point tensor.
    """
    named = output.get("logits") if isinstance(output, Mapping) else None
    for tensor in tensors_in(output if named is None else named):
        if tensor.is_floating_point():
            return tensor
    raise ModelError(
        f"the model's output is {type(output).__name__} without a floating-point tensor; "
        "allowed: a tensor, or a tuple, list or mapping that holds one. Wrap the model so that it returns its logits."
    )
