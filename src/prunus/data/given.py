"""The user's data, of any form, become calibration data, selection data and the data of a repair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from prunus.data.batches import Batch, DataSource
from prunus.data.calibration import batches_of
from prunus.data.learning import learning_data, readable
from prunus.data.splits import Splits
from prunus.errors import DataError, OptionError


class MissingData(OptionError):
    """Data, or their labels, are missing; the planner names the choice that reads them.

    Attributes:
        labels: there are data, and labels alone are missing.
    """

    def __init__(self, choice: str = "", *, labels: bool = False) -> None:
        self.labels = labels
        if labels:
            message = (
                f"{choice or 'this method'} chooses by the loss and needs labels; the data are inputs alone. Give "
                "batches of (inputs, targets), or choose a method that needs none, such as units with criterion "
                "obs-units."
            )
        else:
            message = (
                f"{choice or 'this choice'} needs data=batches of (inputs, targets), a DataLoader or splits, and there "
                "are none; give some, or choose a method or criterion that reads weights alone, such as magnitude."
            )
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Given:
    """The user's data: an object of their own, or the four splits of a task."""

    data: Any
    held_out: Any = None

    @property
    def splits(self) -> Splits | None:
        """The splits, where the data are splits; else None."""
        return self.data if isinstance(self.data, Splits) else None

    def fitted(self, *, recovered: bool) -> Any:
        """Return the data of a repair, without the held-out data that decide on a later recovery."""
        if self.splits is not None:
            return self.splits.calibration
        return learning_data(self.data, self.held_out)[0] if recovered else self.data


class NoData:
    """A source without data: every request for a batch is an error."""

    def __len__(self) -> int:
        return 0

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Raise the error that data are missing.

        Raises:
            OptionError: always.
        """
        raise MissingData


class Later:
    """A source that is read on its first use."""

    def __init__(self, read: Callable[[], DataSource]) -> None:
        self._read = read
        self._found: DataSource | None = None

    def __len__(self) -> int:
        return len(self._source())

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield the batches of the source."""
        return self._source().batches(batch_size, shuffle_seed)

    def _source(self) -> DataSource:
        if self._found is None:
            self._found = self._read()
        return self._found


class AsGiven:
    """Batches of the user's that cannot be regrouped into other sizes."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return sum(1 for _ in batches_of(self._data))

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """Yield the batches unchanged."""
        return iter(batches_of(self._data))


def sources_of(given: Given | None) -> tuple[DataSource, DataSource]:
    """Return the calibration and the selection data.

    Splits hold both. Other data serve as calibration data as a whole; selection data are ``held_out``, or else a tenth
    of the data (the same samples in every run).
    """
    if given is None or given.data is None:
        return NoData(), NoData()
    splits = given.splits
    if splits is not None:
        return splits.calibration, splits.selection
    return Later(partial(_calibration, given.data)), Later(partial(_selection, given))


def _selection(given: Given) -> DataSource:
    _, deciding, labelled = learning_data(given.data, given.held_out)
    if not labelled:
        raise MissingData(labels=True)
    return deciding


def _calibration(data: Any) -> DataSource:
    if callable(getattr(data, "batches", None)):
        source: DataSource = data
        return source
    batches_of(data)  # raises where the value is no data at all
    try:
        source_or_none = readable(data)
    except DataError:
        # Data such as lists of pictures: some criteria can read them, the others raise an error with the reason.
        return AsGiven(data)
    return source_or_none if source_or_none is not None else AsGiven(data)
