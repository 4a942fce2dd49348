"""The user's training data, labelled or not, become a training part and a held-out part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunus.data.batches import DataSource
from prunus.data.sources import DatasetSplit, as_pair, nothing_known
from prunus.data.splits import Splits, source_of, without_held_out
from prunus.errors import DataError
from prunus.graph.call_form import LABELS

NO_LABELS = "the data have no labels: the dense network's answers take their place"


def as_often_as_needed(data: Any) -> Any:
    """Return data as batches that can be iterated over twice.

    The rest of an iterator is held in memory; a dataset is read in batches of 64.
    """
    if isinstance(data, Iterator):
        return list(data)
    if isinstance(data, Tensor | np.ndarray) or hasattr(data, "batches") or not _is_dataset(data):
        return data
    from torch.utils.data import DataLoader

    return DataLoader(data, 64)


def learning_data(given: Any, held_out: Any = None) -> tuple[DataSource, DataSource, bool]:
    """Return training data, held-out data, and whether there are labels.

    Without ``held_out`` a tenth of the samples is held out, the same ones in every run.

    Args:
        given: a DataLoader, a dataset, batches, or splits (of which train and selection are used). A batch, or a sample
            of a dataset, is (inputs, labels), a mapping with a key ``labels``, or inputs alone. Data that can be read
            only once are held in memory.
        held_out: data of the same kind.

    Raises:
        DataError: empty, not finite, of the wrong type, too small to hold samples out, or only one of both with labels.
    """
    if isinstance(given, Splits):
        return given.train, given.selection, True
    labelled, source = _read(given, "train")
    if held_out is None:
        return (*without_held_out(source), labelled)
    also, deciding = _read(held_out, "held_out")
    if also != labelled:
        raise DataError(
            f"the training data have {'labels' if labelled else 'no labels'}, the held-out data "
            f"{'have' if also else 'have none'}; give labels with both or with neither."
        )
    return source, deciding, labelled


def readable(given: Any) -> DataSource | None:
    """Return labelled data as a source that yields batches of any size; None where no labels are known.

    Raises:
        DataError: empty, not finite or of the wrong type.
    """
    labelled, source = _read(given, "data")
    return source if labelled else None


def _read(given: Any, name: str) -> tuple[bool, Any]:
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        return True, source_of(given, name)
    if isinstance(given, Tensor):
        return False, source_of((given, nothing_known(given)), name)
    if isinstance(given, Iterator):
        given = list(given)
    samples = _is_dataset(given)
    if hasattr(given, "batches") or isinstance(given, str | Mapping) or not (samples or isinstance(given, Iterable)):
        return True, source_of(given, name)
    first = (given[0] if len(given) else None) if samples else next(iter(given), None)
    several = isinstance(first, list | tuple) and (len(first) == 2 or (samples and len(first) > 2))
    if first is None or (several and first[-1] is not None):
        return True, source_of(given, name)
    labelled = isinstance(first, Mapping) and any(key in first for key in LABELS)
    return labelled, _rows(given, name) if samples else _paired(given, name)


def _is_dataset(given: Any) -> bool:
    """Tell whether samples can be counted and read by number, as in datasets of torch and Hugging Face."""
    from torch.utils.data import DataLoader

    known = isinstance(given, DataLoader | Mapping | list | tuple | str)
    return not known and hasattr(given, "__getitem__") and hasattr(given, "__len__")


def _rows(given: Any, name: str) -> DatasetSplit:
    from torch.utils.data import default_collate

    index = torch.arange(len(given))
    return DatasetSplit(given, index, name, collate=lambda items: as_pair(default_collate(items)))


def _paired(given: Any, name: str) -> Any:
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(given, DataLoader) and given.batch_size and not isinstance(given.dataset, IterableDataset):
        collate: Callable[[Any], Any] = given.collate_fn

        def paired(items: Any) -> Any:
            return as_pair(collate(items))

        loader = DataLoader(given.dataset, given.batch_size, collate_fn=paired, num_workers=given.num_workers)
        return source_of(loader, name)
    return source_of([as_pair(item) for item in given], name)
