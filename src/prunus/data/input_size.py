"""The size of a network's inputs, of images or of sequences, and calls and data of a smaller size."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.data.batches import Batch
from prunus.data.sources import AugmentedSplit, BatchList, DatasetSplit, Split
from prunus.data.splits import Splits
from prunus.errors import DataError, OptionError

AUTO = "auto"
Size = tuple[int, ...]
"""(height, width) of images, or (length,) of sequences."""


@dataclass(frozen=True, slots=True)
class InputSize:
    """The size of the inputs of one call.

    Attributes:
        size: (height, width) of images in pixels, or (length,) of sequences in positions.
        leaves: the places of the tensors with this size among the flat inputs of the call.
        count: the number of flat inputs.
    """

    size: Size
    leaves: tuple[int, ...]
    count: int

    @staticmethod
    def of(example_inputs: Any) -> InputSize | None:
        """Return the size of the inputs of a call; None where they hold neither images nor sequences.

        Images are tensors (B, C, H, W) of floats; sequences are (B, T) of whole numbers and (B, T, features) of floats.
        Where both are there, the images count.

        Example:
            >>> InputSize.of(torch.zeros(2, 3, 32, 48)).size, InputSize.of(torch.zeros(2, 16).long()).size
            ((32, 48), (16,))
        """
        leaves = pytree.tree_leaves(example_inputs)
        tensors = [(i, x) for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        images = [(i, tuple(x.shape[2:])) for i, x in tensors if x.dim() == 4 and x.is_floating_point()]
        lengths = [(i, (x.shape[1],)) for i, x in tensors if x.dim() == (3 if x.is_floating_point() else 2)]
        found: list[tuple[int, Size]] = [*(images or lengths)]
        if not found or min(found[0][1]) < 2:
            return None
        size = found[0][1]
        return InputSize(size, tuple(i for i, own in found if own == size), len(leaves))

    @property
    def of_images(self) -> bool:
        """Return whether the inputs are images."""
        return len(self.size) == 2

    def resizer(self, size: Size) -> Resizer:
        """Return the conversion to a smaller size."""
        return Resizer(self, size)


@dataclass(frozen=True, slots=True)
class Resizer:
    """The conversion of calls and data to a smaller size.

    Images are scaled by bilinear interpolation with antialiasing, their maps of labels by the nearest label; sequences
    and labels of their positions keep their first positions.

    Attributes:
        before: the inputs as they were.
        size: the new size.
    """

    before: InputSize
    size: Size

    def inputs(self, given: Any) -> Any:
        """Return the inputs of a call in the new size; what has it already is unchanged.

        Raises:
            DataError: a call with another number of tensors than the example.
        """
        leaves, spec = pytree.tree_flatten(given)
        if len(leaves) != self.before.count:
            raise DataError(
                f"a batch holds {len(leaves)} inputs, the example call {self.before.count}; a reduced input size needs "
                "batches of the example's form."
            )
        resized = [self._tensor(x) if i in self.before.leaves else x for i, x in enumerate(leaves)]
        return pytree.tree_unflatten(resized, spec)

    def batch(self, item: Any) -> Any:
        """Return a batch (inputs, targets), or inputs alone, in the new size."""
        pair = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], Tensor)
        if pair and len(pytree.tree_leaves(item[0])) == self.before.count:
            return self.inputs(item[0]), self._targets(item[1], item[0])
        if isinstance(item, list | tuple) and len(item) == 1 and self.before.count == 1:
            return self.inputs(item[0])
        return self.inputs(item)

    def data(self, given: Any) -> Any:
        """Return data whose batches have the new size; a loader stays a loader, a split stays a split.

        Args:
            given: a DataLoader, batches, splits, a source, or one tensor of samples, in the form of the call.
        """
        from torch.utils.data import DataLoader

        if given is None or isinstance(given, str):
            return given
        if isinstance(given, Tensor):
            return self.inputs(given)
        if isinstance(given, Splits):
            return replace(given, **{field.name: self.data(getattr(given, field.name)) for field in fields(given)[:4]})
        if isinstance(given, Split):
            inputs, targets = self.batch((given.inputs, given.targets))
            return Split(inputs, targets, given.name)
        if isinstance(given, AugmentedSplit):
            # A variation that crops may give the old size again.
            return AugmentedSplit(self.data(given.split), _Varied(given.vary, self))
        if isinstance(given, BatchList):
            return replace(given, items=[self.batch(item) for item in given.items])
        if isinstance(given, DatasetSplit):
            return replace(given, collate=_Collated(given.collate, self))
        if isinstance(given, DataLoader):
            loader = copy.copy(given)
            loader._iterator = None  # persistent workers hold the old collate function
            loader.collate_fn = _Collated(given.collate_fn, self)
            return loader
        if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Tensor):
            return self.batch(given)
        if isinstance(given, list | tuple):
            return [self.batch(item) for item in given]
        return _Source(given, self) if callable(getattr(given, "batches", None)) else _Batches(given, self)

    def _tensor(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not self.before.of_images:
            return x[:, : self.size[0]]
        if tuple(x.shape[-2:]) == self.size:
            return x
        return torch.nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)

    def _targets(self, targets: Tensor, inputs: Any) -> Tensor:
        first = pytree.tree_leaves(inputs)[self.before.leaves[0]]
        if not self.before.of_images:
            of_positions = targets.dim() > 1 and targets.shape[1] == first.shape[1]
            return targets[:, : self.size[0]] if of_positions else targets
        if targets.dim() != 3 or targets.shape[-2:] != first.shape[-2:] or targets.is_floating_point():
            return targets
        maps = torch.nn.functional.interpolate(targets[:, None].double(), self.size, mode="nearest")
        return maps[:, 0].to(targets.dtype)


@dataclass(frozen=True, slots=True)
class _Varied:
    vary: Callable[[Tensor, torch.Generator], Tensor]
    resizer: Resizer

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        varied: Tensor = self.resizer.inputs(self.vary(inputs, generator))
        return varied


@dataclass(frozen=True, slots=True)
class _Collated:
    """A collate function followed by the new size; it can be sent to worker processes."""

    collate: Callable[[Any], Any] | None
    resizer: Resizer

    def __call__(self, items: Any) -> Any:
        from torch.utils.data import default_collate

        return self.resizer.batch((self.collate or default_collate)(items))


@dataclass(frozen=True, slots=True)
class _Batches:
    data: Iterable[Any]
    resizer: Resizer

    def __iter__(self) -> Iterator[Any]:
        return map(self.resizer.batch, self.data)


@dataclass(frozen=True, slots=True)
class _Source:
    source: Any
    resizer: Resizer

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int | None = None, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Yield the batches of the source in the new size."""
        return map(self.resizer.batch, self.source.batches(batch_size, shuffle_seed))


def size_name(size: Sequence[int]) -> str:
    """Return a size in words.

    Example:
        >>> size_name((160, 192)), size_name((64,))
        ('160×192', 'length 64')
    """
    return "×".join(map(str, size)) if len(size) == 2 else f"length {size[0]}"


def check_resolution(given: Any) -> str | tuple[int | str, ...] | None:
    """Return a checked value of ``resolution``: None, ``auto``, or a tuple of sizes.

    Raises:
        OptionError: another value, or a size that is none.
    """
    if given is None or given == AUTO:
        return None if given is None else AUTO
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    wrong = next((entry for entry in given if not _is_size(entry)), None) if listed else given
    if not listed or not given or wrong is not None:
        raise OptionError(
            f"resolution is {given!r}; allowed: 'auto', or a list of sides, lengths, or texts such as '160x192', each "
            "above 0: [192, 160, 128]."
        )
    return tuple(entry if isinstance(entry, str) else int(entry) for entry in given)


def _is_size(entry: Any) -> bool:
    if isinstance(entry, str):
        return re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", entry) is not None
    return isinstance(entry, int) and not isinstance(entry, bool) and entry > 0
