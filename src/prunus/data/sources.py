"""Labelled data in its three forms: tensors in memory, an indexed dataset, a list of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunus.data.batches import Batch, check_count, tensors_in
from prunus.data.checks import check_batch
from prunus.errors import DataError
from prunus.graph.call_form import LABELS

DEFAULT_BATCH = 256


def order(count: int, shuffle_seed: int | None) -> Tensor:
    """Return 0..count−1, shuffled where a seed is given."""
    if shuffle_seed is None:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(shuffle_seed))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples held in memory as two tensors.

    Shapes: inputs (N, …), targets (N) or (N, …).

    Raises:
        DataError: no samples, lengths that differ, NaN or infinity, or negative labels.
    """

    inputs: Tensor
    targets: Tensor
    name: str = "data"

    def __post_init__(self) -> None:
        check_batch(self.inputs, self.targets, f"split {self.name!r}")

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, batch_size: int | None = None, shuffle_seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets) of ``batch_size`` samples (256 by default), the last one shorter."""
        size = DEFAULT_BATCH if batch_size is None else batch_size
        check_count("batch_size", size)
        for index in torch.split(order(len(self), shuffle_seed), size):
            yield self.inputs[index], self.targets[index]

    def take(self, index: Tensor, name: str) -> Split:
        """Return the samples at ``index`` as a new split."""
        return Split(self.inputs[index], self.targets[index], name)


@dataclass(frozen=True, slots=True, eq=False)
class AugmentedSplit:
    """A split whose shuffled batches are varied at random; unshuffled batches hold the samples unchanged.

    ``vary`` gets the inputs of a batch and a generator; the shuffle seed determines both order and variation.
    """

    split: Split
    vary: Callable[[Tensor, torch.Generator], Tensor]

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, targets) of ``batch_size`` samples, varied if there is a shuffle seed."""
        generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        for inputs, targets in self.split.batches(batch_size, shuffle_seed):
            yield inputs if generator is None else self.vary(inputs, generator), targets

    def take(self, index: Tensor, name: str) -> AugmentedSplit:
        """Return the samples at ``index`` as a new split."""
        return AugmentedSplit(self.split.take(index, name), self.vary)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetSplit:
    """Samples of a map-style dataset, read on demand; only the samples at ``index`` belong to it."""

    dataset: Any
    index: Tensor  # (N,) int64
    name: str = "data"
    batch_size: int = DEFAULT_BATCH
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if not len(self.index):
            raise DataError(f"split {self.name!r} is empty; at least 1 sample is needed. Check its folder or filter.")
        next(self.batches(min(2, len(self))))

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield (inputs, targets) of ``batch_size`` samples (the loader's size by default)."""
        from torch.utils.data import DataLoader, Subset

        size = self.batch_size if batch_size is None else batch_size
        check_count("batch_size", size)
        rows = self.index[order(len(self), shuffle_seed)].tolist()
        loader = DataLoader(Subset(self.dataset, rows), size, collate_fn=self.collate, num_workers=self.workers)
        for item in loader:
            yield as_batch(item, f"split {self.name!r}")

    def take(self, index: Tensor, name: str) -> DatasetSplit:
        """Return the samples at ``index`` (into this split) as a new split."""
        return DatasetSplit(self.dataset, self.index[index], name, self.batch_size, self.collate, self.workers)


@dataclass(frozen=True, slots=True, eq=False)
class BatchList:
    """The user's batches, for inputs that cannot be concatenated; shuffling changes only the order of the batches."""

    items: Sequence[Batch]
    name: str = "data"

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError(f"split {self.name!r} is empty; at least 1 batch is needed. Check its source.")
        for number, (inputs, targets) in enumerate(self.items):
            check_batch(inputs, targets, f"batch {number} of split {self.name!r}")

    def __len__(self) -> int:
        return sum(len(targets) for _, targets in self.items)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield the batches; ``batch_size`` is ignored."""
        for index in order(len(self.items), shuffle_seed).tolist():
            yield self.items[index]

    def take(self, index: Tensor, name: str) -> BatchList:
        """Return the batches at ``index`` as a new split."""
        return BatchList([self.items[number] for number in index.tolist()], name)


def as_batch(item: Any, where: str) -> Batch:
    """Return (inputs, targets) of an item of a loader, targets as a tensor.

    Raises:
        DataError: not a pair, or its parts are not tensors.
    """
    if isinstance(item, Mapping) and any(key in item for key in LABELS):
        item = as_pair(item)
    if not isinstance(item, list | tuple) or len(item) != 2:
        what = f"{len(item)} parts" if isinstance(item, list | tuple) else type(item).__name__
        raise DataError(f"{where} yields {what}; allowed: pairs (inputs, targets). Are the labels missing?")
    inputs, targets = item
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs
    try:
        targets = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{where} has targets of type {type(targets).__name__}; allowed: a tensor or numbers. Encode them."
        ) from error
    check_batch(inputs, targets, where)
    return inputs, targets


def as_pair(item: Any) -> Batch:
    """Return (inputs, targets) of a batch that is no pair: targets are the labels by key, or else empty rows.

    Raises:
        DataError: neither a tensor, nor a mapping or list of tensors.
    """
    if isinstance(item, Mapping):
        key = next((key for key in LABELS if key in item), None)
        named = {name: value for name, value in item.items() if name != key}
        return named, nothing_known(named) if key is None else torch.as_tensor(item[key])
    alone = isinstance(item, list | tuple) and len(item) == 2 and item[1] is None
    only = isinstance(item, list | tuple) and len(item) == 1
    inputs = item[0] if alone or only else item
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs
    return inputs, nothing_known(inputs)


def nothing_known(inputs: Any) -> Tensor:
    """Return targets without information: one empty row a sample.

    Raises:
        DataError: no tensor among the inputs.
    """
    first = next(tensors_in(inputs), None)
    if first is None:
        raise DataError(f"a batch without labels is {type(inputs).__name__}; allowed: a tensor, or tensors by name.")
    return torch.empty(len(first), 0)
