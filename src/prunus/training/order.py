"""The order of batches in a training: epochs without end, each shuffled by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice

from prunus.data.batches import Batch, DataSource, pair_of
from prunus.errors import DataError


class Order:
    """An endless iterator of batches with its position, so that a later process can resume there.

    Args:
        data: read once in each epoch.
        batch_size: samples in a batch; a batch of one sample among larger ones is passed over.
        seed: of the order; each epoch is shuffled by a seed of its own.
        epoch, taken: the position to start at: the number of whole epochs done, and of batches taken in the next.
        at_epoch: called right before each epoch begins.

    Example:
        >>> from itertools import islice
        >>> import torch
        >>> from prunus.data.splits import Split
        >>> order = Order(Split(torch.arange(4.0), torch.zeros(4), "train"), 2, seed=0)
        >>> _ = list(islice(order, 3))
        >>> order.epoch, order.taken
        (1, 1)
    """

    def __init__(
        self,
        data: DataSource,
        batch_size: int,
        seed: int,
        *,
        epoch: int = 0,
        taken: int = 0,
        at_epoch: Callable[[], object] = lambda: None,
    ) -> None:
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self.epoch, self.taken, self._at_epoch = epoch, taken, at_epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; raise DataError where the data have none."""
        to_skip = self.taken
        while True:
            self._at_epoch()
            empty = True
            for batch in _usable(self._data.batches(self._batch_size, (self._seed * 1_000_003 + self.epoch) % 2**63)):
                empty = False
                if to_skip:
                    to_skip -= 1
                    continue
                self.taken += 1
                yield batch
            if empty:
                raise DataError("the training data yield no batch; at least 1 sample is needed. Check the train split.")
            self.epoch, self.taken, to_skip = self.epoch + 1, 0, 0


def _usable(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Pass over batches of one sample, which have no variance for a batch norm, unless there are no others."""
    batches = (pair_of(batch, number, "training batch") for number, batch in enumerate(batches))
    head = list(islice(batches, 2))
    singles = all(len(batch[1]) == 1 for batch in head)
    return (batch for batch in chain(head, batches) if singles or len(batch[1]) > 1)
