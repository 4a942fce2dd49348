"""Conversion of data: the batches of any kind of data take the form in which the model is called."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from operator import length_hint
from typing import Any

from torch import Tensor

from prunus.data.batches import Batch
from prunus.data.sources import AugmentedSplit, BatchList, DatasetSplit, Split
from prunus.data.splits import Splits
from prunus.graph.call_form import CallForm


def called(data: Any, calls: CallForm) -> Any:
    """Return data whose batches have the form of an example call; for a model that takes tensors they are unchanged.

    A loader stays a loader, over the same samples in the same order; a split stays a split.

    Args:
        data: a DataLoader, batches, splits, a source, or one tensor of samples.
        calls: the form in which the model is called.

    Example:
        >>> called([{"words": 1, "labels": 2}], CallForm(({"words": 0},)))
        [(({'words': 1},), 2)]
    """
    from torch.utils.data import DataLoader

    if calls.plain or data is None or isinstance(data, str | Tensor | Split | AugmentedSplit):
        return data
    if isinstance(data, Splits):
        parts = {field.name: called(getattr(data, field.name), calls) for field in fields(data)[:4]}
        return replace(data, **parts)
    if isinstance(data, BatchList):
        return replace(data, items=[calls.batch(item) for item in data.items])
    if isinstance(data, DatasetSplit):
        return replace(data, collate=_Collate(data.collate, calls))
    if isinstance(data, DataLoader):
        return _loader(data, calls)
    if isinstance(data, Mapping) or (isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor)):
        return data  # one batch, which its reader refuses
    if isinstance(data, list | tuple):
        return [calls.batch(item) for item in data]
    if callable(getattr(data, "batches", None)):
        return _Source(data, calls)
    return _Batches(data, calls) if isinstance(data, Iterable) and not isinstance(data, Iterator) else data


@dataclass(frozen=True, slots=True)
class _Collate:
    """A collate function followed by the form of a call; it can be sent to worker processes."""

    collate: Callable[[Any], Any] | None
    calls: CallForm

    def __call__(self, items: Any) -> Any:
        from torch.utils.data import default_collate

        return self.calls.batch((self.collate or default_collate)(items))


def _loader(given: Any, calls: CallForm) -> Any:
    loader = copy.copy(given)
    loader._iterator = None  # persistent workers hold the old collate function
    loader.collate_fn = _Collate(given.collate_fn, calls)
    return loader


@dataclass(frozen=True, slots=True)
class _Batches:
    data: Iterable[Any]
    calls: CallForm

    def __iter__(self) -> Iterator[Any]:
        return map(self.calls.batch, self.data)

    def __length_hint__(self) -> int:
        return length_hint(self.data, 0)


@dataclass(frozen=True, slots=True)
class _Source:
    source: Any
    calls: CallForm

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield the batches of the source, in the form of a call."""
        return map(self.calls.batch, self.source.batches(batch_size, shuffle_seed))
