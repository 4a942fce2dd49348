"""The four splits of a task, from the user's loaders or from a built-in workload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from prunus.data.batches import Batch, DataSource
from prunus.data.checks import check_range
from prunus.data.sources import AugmentedSplit, BatchList, DatasetSplit, Split, as_batch, order
from prunus.errors import DataError, nearest
from prunus.foundation.arguments import door

__all__ = ["AugmentedSplit", "BatchList", "DataSource", "DatasetSplit", "Split", "Splits", "splits_from_loaders"]

NAMES = ("train", "calibration", "selection", "test")
CARVED_FRACTION = 0.1
CARVED_AT_MOST = 4096
_CARVE_SEED = 0  # the same samples in every run, for any seed of the run

Source: TypeAlias = "Split | AugmentedSplit | DatasetSplit | BatchList"


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The data of a task, one split for each use.

    ``train`` is for the weights, ``calibration`` for scores and statistics, ``selection`` for choices between
    candidates, ``test`` for reported results.

    ``classes`` names the labels in order; empty where they are unknown or the targets are not labels.
    """

    train: DataSource
    calibration: DataSource
    selection: DataSource
    test: DataSource
    classes: tuple[str, ...] = ()


@door("splits")
def splits_from_loaders(given: Any) -> Splits:
    """Return splits from a mapping, or an object with attributes, of loaders.

    ``train`` and ``test`` are required. Where ``calibration`` or ``selection`` is missing, it is taken out of ``train``
    (a tenth each, at most 4,096 samples; the same ones in every run); nothing is ever taken from ``test``.
    Map-style datasets and loaders over them stay on disk; other iterables are read once and held in memory, joined to
    two tensors, or kept as batches where the inputs are tuples, mappings or of varying shape.

    Args:
        given: Values are DataLoaders, datasets, iterables of (inputs, targets) batches, one (inputs, targets) pair of
            tensors, or one of the splits of `sources`. ``classes`` may name the labels. Splits are returned unchanged.

    Raises:
        DataError: a split that is missing, unknown, empty, without labels, not finite or of the wrong type, labels
            beyond the classes, or a train split too small to take splits from.

    Example:
        >>> pair = (torch.zeros(30, 4), torch.arange(30) % 3)
        >>> splits = splits_from_loaders({"train": pair, "test": pair})
        >>> len(splits.train), len(splits.calibration), len(splits.selection), splits.classes
        (24, 3, 3, ('0', '1', '2'))
    """
    if isinstance(given, Splits):
        return given
    named = _named(given)
    sources = {name: source_of(named[name], name) for name in NAMES if name in named}
    missing = [name for name in ("calibration", "selection") if name not in sources]
    sources.update(_carved(sources["train"], missing))
    classes = _classes(named.get("classes"), sources)
    return Splits(**sources, classes=classes)


def _named(given: Any) -> dict[str, Any]:
    allowed = (*NAMES, "classes")
    if isinstance(given, Mapping):
        unknown = next((name for name in given if name not in allowed), None)
        if unknown is not None:
            raise DataError(
                f"the data name a split {unknown!r}.{nearest(str(unknown), allowed)} Allowed: {', '.join(allowed)}."
            )
        named = dict(given)
    else:
        named = {name: getattr(given, name) for name in allowed if hasattr(given, name)}
    named = {name: value for name, value in named.items() if value is not None}
    for name in ("train", "test"):
        if name not in named:
            raise DataError(
                f"the data ({type(given).__name__}) have no {name!r} split; needed: train and test. "
                "Return a mapping with both."
            )
    return named


def source_of(value: Any, name: str) -> Source:
    """Return labelled data as one of the sources; see `splits_from_loaders` for the allowed forms.

    Raises:
        DataError: empty, without labels, not finite or of the wrong type.
    """
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(value, Split | AugmentedSplit | DatasetSplit | BatchList):
        return value
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value):
        return Split(*value, name)
    if isinstance(value, DataLoader) and value.batch_size and not isinstance(value.dataset, IterableDataset):
        index = torch.arange(len(cast(Sized, value.dataset)))
        return DatasetSplit(value.dataset, index, name, value.batch_size, value.collate_fn, value.num_workers)
    streamed = isinstance(value, DataLoader | list | tuple)
    if isinstance(value, str | Mapping | Tensor) or not (isinstance(value, Iterable) or hasattr(value, "__getitem__")):
        raise DataError(
            f"split {name!r} is {type(value).__name__}; "
            "allowed: a DataLoader, a dataset, or an iterable of (inputs, targets) batches."
        )
    if not streamed and hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return DatasetSplit(value, torch.arange(len(value)), name)
    return _in_memory([as_batch(item, f"split {name!r}") for item in value], name)


def _in_memory(batches: list[Batch], name: str) -> Split | BatchList:
    inputs = [batch[0] for batch in batches]
    tensors = [part for part in inputs if isinstance(part, Tensor)]
    targets = [batch[1] for batch in batches]
    shapes = {(part.shape[1:], labels.shape[1:]) for part, labels in zip(tensors, targets, strict=False)}
    if len(tensors) == len(inputs) and len(shapes) == 1:
        return Split(torch.cat(tensors), torch.cat(targets), name)
    return BatchList(batches, name)


def without_held_out(train: Source) -> tuple[Source, Source]:
    """Return a source without a held-out tenth (at most 4,096 samples), and that tenth.

    Raises:
        DataError: too few samples.
    """
    parts = _carved(train, ["selection"])
    return parts["train"], parts["selection"]


def _carved(train: Source, missing: list[str]) -> dict[str, Source]:
    if not missing:
        return {}
    units = len(train.items) if isinstance(train, BatchList) else len(train)
    take = min(max(1, round(units * CARVED_FRACTION)), CARVED_AT_MOST)
    if units <= take * len(missing):
        unit = "batches" if isinstance(train, BatchList) else "samples"
        raise DataError(
            f"split 'train' has {units} {unit}; {' and '.join(missing)} would leave none to train on. "
            "Give more data, or name those splits."
        )
    parts = torch.split(order(units, _CARVE_SEED), [take] * len(missing) + [units - take * len(missing)])
    carved: dict[str, Source] = {
        name: train.take(part.sort().values, name) for name, part in zip(missing, parts, strict=False)
    }
    return carved | {"train": train.take(parts[-1].sort().values, "train")}


def _classes(given: Iterable[object] | None, sources: Mapping[str, Source]) -> tuple[str, ...]:
    if given is None:
        datasets = [source.dataset for source in sources.values() if isinstance(source, DatasetSplit)]
        given = next((dataset.classes for dataset in datasets if hasattr(dataset, "classes")), None)
    labels_of = {name: _labels(source) for name, source in sources.items() if not isinstance(source, DatasetSplit)}
    if given is not None:
        names = tuple(str(name) for name in given)
        for name, labels in labels_of.items():
            check_range(labels, len(names), f"split {name!r}")
        return names
    if len(labels_of) < len(sources) or any(labels.is_floating_point() for labels in labels_of.values()):
        return ()
    count = 1 + max(int(labels.max()) for labels in labels_of.values())
    for name, labels in labels_of.items():
        check_range(labels, count, f"split {name!r}")
    return tuple(map(str, range(count)))


def _labels(source: Source) -> Tensor:
    return torch.cat([labels.flatten() for _, labels in source.batches()])
