"""The order of batches in a training: walks through the data without end, each shuffled by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice

from prunus.data.batches import Batch, DataSource, pair_of
from prunus.errors import DataError


class Order:
    """Yields batches for ever, and knows where it stands, so that a later process can go on there.

    Args:
        data: walked through again and again.
        batch_size: samples a batch; a batch of one sample among larger ones is passed over.
        seed: of the order; walk k is shuffled by a seed of its own.
        walk, taken: where to begin: so many whole walks, and so many batches of the next, are behind.
        at_walk: called right before each walk begins.

    Example:
        >>> from itertools import islice
        >>> import torch
        >>> from prunus.data.splits import Split
        >>> order = Order(Split(torch.arange(4.0), torch.zeros(4), "train"), 2, seed=0)
        >>> _ = list(islice(order, 3))
        >>> order.walk, order.taken
        (1, 1)
    """

    def __init__(
        self,
        data: DataSource,
        batch_size: int,
        seed: int,
        *,
        walk: int = 0,
        taken: int = 0,
        at_walk: Callable[[], object] = lambda: None,
    ) -> None:
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self.walk, self.taken, self._at_walk = walk, taken, at_walk

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; raise DataError when the data have none."""
        behind = self.taken
        while True:
            self._at_walk()
            empty = True
            for batch in _usable(self._data.batches(self._batch_size, (self._seed * 1_000_003 + self.walk) % 2**63)):
                empty = False
                if behind:
                    behind -= 1
                    continue
                self.taken += 1
                yield batch
            if empty:
                raise DataError("the training data yield no batch; at least 1 sample is needed. Check the train split.")
            self.walk, self.taken, behind = self.walk + 1, 0, 0


def _usable(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Pass over batches of one sample, which has no variance for a batch norm, unless there are no others."""
    batches = (pair_of(batch, number, "training batch") for number, batch in enumerate(batches))
    head = list(islice(batches, 2))
    singles = all(len(batch[1]) == 1 for batch in head)
    return (batch for batch in chain(head, batches) if singles or len(batch[1]) > 1)
