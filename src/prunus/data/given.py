"""From whatever data a person gives to what scores, what decides and what is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prunus.data.batches import Batch, DataSource
from prunus.data.calibration import batches_of
from prunus.data.learning import learning_data, readable
from prunus.data.splits import Splits
from prunus.errors import DataError, OptionError


@dataclass(frozen=True, slots=True)
class Given:
    """The data as they came: the user's own object, or the four splits of a task."""

    data: Any
    held_out: Any = None

    @property
    def splits(self) -> Splits | None:
        """The splits, where the data are some."""
        return self.data if isinstance(self.data, Splits) else None

    def fitted(self, *, recovered: bool) -> Any:
        """Return what a repair is fitted to: what decides on a later recovery is no part of it."""
        if self.splits is not None:
            return self.splits.calibration
        return learning_data(self.data, self.held_out)[0] if recovered else self.data


class NoData:
    """Stands where there are no data; asking for a batch is an error that says so."""

    def __len__(self) -> int:
        return 0

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Refuse.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "this choice needs data=batches of (inputs, targets), a DataLoader or splits, and there are none; give "
            "some, or choose a method or criterion that reads weights alone, such as magnitude."
        )


class Later:
    """A source that is read when it is first asked for."""

    def __init__(self, read: Callable[[], DataSource]) -> None:
        self._read = read
        self._found: DataSource | None = None

    def __len__(self) -> int:
        return len(self._source())

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield batches as the source does."""
        return self._source().batches(batch_size, shuffle_seed)

    def _source(self) -> DataSource:
        if self._found is None:
            self._found = self._read()
        return self._found


class AsGiven:
    """Batches that cannot be divided anew, as the user gave them."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return sum(1 for _ in batches_of(self._data))

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Any]:
        """Yield the batches as they are."""
        return iter(batches_of(self._data))


def sources_of(given: Given | None) -> tuple[DataSource, DataSource]:
    """Return the calibration and the selection data.

    Splits name both. Of other data, all of them calibrate, and ``held_out``, or else a tenth of them (the same
    samples in every run), selects.
    """
    if given is None or given.data is None:
        return NoData(), NoData()
    splits = given.splits
    if splits is not None:
        return splits.calibration, splits.selection
    return Later(lambda: _calibration(given.data)), Later(lambda: _selection(given))


def _selection(given: Given) -> DataSource:
    _, deciding, labelled = learning_data(given.data, given.held_out)
    if not labelled:
        raise OptionError(
            "this method chooses by the loss and needs labels; the data are inputs alone. Give batches of (inputs, "
            "targets), or choose a method that needs none, such as units with criterion obs-units."
        )
    return deciding


def _calibration(data: Any) -> DataSource:
    if callable(getattr(data, "batches", None)):
        source: DataSource = data
        return source
    batches_of(data)  # refuses what is no data at all
    try:
        found = readable(data)
    except DataError:
        # Lists of pictures and the like: criteria that can read them do, the others say why not.
        return AsGiven(data)
    return found if found is not None else AsGiven(data)


__all__ = ["AsGiven", "Given", "Later", "NoData", "sources_of"]
