"""`Merge`: the share of removed inputs that the kept inputs of a layer take over; its form in a plan's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunus.errors import DataError, PlanError
from prunus.foundation.arguments import shown
from prunus.foundation.strict_json import decode_record
from prunus.foundation.user_code import one_line

SUBSTITUTES = "substitutes.safetensors"
"""The file of a plan that holds the numbers of its merges."""
MOST_BYTES = 2**31
MOST_MERGES = 2**16


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """The share of removed inputs of one layer that its kept inputs take over.

    With W the weight, R its removed part, T the shares and m the means of the inputs, the kept part of the weight gets
    S = R·T, and the bias R·m − S·m. An input is a unit that the layer reads: one position of the weight's dim, or
    several (the positions of one channel behind a flatten), each of which passes its share to the same one of the other
    input.

    Attributes:
        tensor: name of the weight.
        dim: its dim on which the inputs lie, 0 or 1; the other of the two is that of the outputs.
        bias: name of the bias, or "" where the layer has none.
        inputs: position of the dim → number of the input, −1 for none (int32).
        removed, kept, share: entries T[removed[i], kept[i]] = share[i] (int32, int32, float32).
        mean: m, one number an input (float32); empty without a bias.
    """

    tensor: str
    dim: int
    bias: str
    inputs: np.ndarray
    removed: np.ndarray
    kept: np.ndarray
    share: np.ndarray
    mean: np.ndarray

    @property
    def count(self) -> int:
        """The number of inputs."""
        return int(self.inputs.max(initial=-1)) + 1

    def describe(self) -> dict[str, Any]:
        """Return the JSON form, without the numbers."""
        return {"tensor": self.tensor, "dim": self.dim, "bias": self.bias, "shares": len(self.share)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers by name."""
        return {name: getattr(self, name) for name in _KINDS}


_KINDS: Mapping[str, type] = {
    "inputs": np.int32,
    "removed": np.int32,
    "kept": np.int32,
    "share": np.float32,
    "mean": np.float32,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of ``merges`` in a plan's JSON."""

    tensor: str
    dim: int
    bias: str
    shares: int


def same_merges(one: Sequence[Merge], other: Sequence[Merge]) -> bool:
    """Return whether two lists of merges are equal, numbers included."""
    return len(one) == len(other) and all(
        a.describe() == b.describe() and all(np.array_equal(v, b.arrays()[k]) for k, v in a.arrays().items())
        for a, b in zip(one, other, strict=True)
    )


def write_substitutes(folder: Path, merges: Sequence[Merge]) -> None:
    """Write the numbers of merges into a folder; nothing where there are none."""
    if not merges:
        return
    import torch

    from prunus.foundation.checksum import bytes_with_checksum

    named = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in _named(merges)}
    (folder / SUBSTITUTES).write_bytes(bytes_with_checksum(named, {}))


def _named(merges: Sequence[Merge]) -> Iterator[tuple[str, np.ndarray]]:
    for number, merge in enumerate(merges):
        for name, value in merge.arrays().items():
            yield f"merge.{number}.{name}", value


def read_substitutes(folder: Path, listed: Any) -> tuple[Merge, ...]:
    """Read the merges that a plan's JSON lists.

    Raises:
        PlanError: a missing or damaged file, or entries that it does not hold.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from prunus.foundation.checksum import checksum_error

    if not listed:
        return ()
    path = folder / SUBSTITUTES
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes; allowed: {MOST_BYTES:,}")
        if broken := checksum_error(path):
            raise ValueError(broken)
        return merges_of(listed, load(path.read_bytes()))
    except (OSError, SafetensorError, DataError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = one_line(error, 200).rstrip(".")
        raise PlanError(f"{path} does not hold the merges that plan.json names: {reason}.") from error


def merges_of(listed: Any, arrays: Mapping[str, np.ndarray]) -> tuple[Merge, ...]:
    """Build merges from their JSON form and their numbers.

    Raises:
        DataError: entries of another form, or numbers that do not fit them.
        KeyError: numbers that are missing.
    """
    if not isinstance(listed, list) or len(listed) > MOST_MERGES:
        raise DataError(f"merges is {shown(listed)}; allowed: a list of at most {MOST_MERGES:,} entries")
    return tuple(_merge(n, decode_record(_Entry, entry, "merges"), arrays) for n, entry in enumerate(listed))


def _merge(number: int, entry: _Entry, arrays: Mapping[str, np.ndarray]) -> Merge:
    where = f"merge {number} ({entry.tensor[:100]!r})"
    if entry.dim not in (0, 1):
        raise DataError(f"{where} is on dim {entry.dim}; allowed: 0 or 1")
    values = {name: arrays[f"merge.{number}.{name}"] for name in _KINDS}
    for name, kind in _KINDS.items():
        value = values[name]
        if value.ndim != 1 or value.dtype != kind:
            got = f"{value.dtype} of shape {value.shape}"
            raise DataError(f"{where}: {name} is {got}; allowed: one dim of {kind.__name__}")
        if kind is np.float32 and not np.isfinite(value).all():
            raise DataError(f"{where}: {name} is not finite")
    merge = Merge(entry.tensor, entry.dim, entry.bias, **values)
    count = merge.count
    if not len(merge.removed) == len(merge.kept) == len(merge.share) == entry.shares:
        raise DataError(f"{where}: {len(merge.share)} shares, and plan.json says {entry.shares}")
    for name in ("removed", "kept"):
        if entry.shares and not 0 <= values[name].min() <= values[name].max() < count:
            raise DataError(f"{where}: {name} names an input outside 0 to {count - 1}")
    if count == 0 or (np.bincount(merge.inputs[merge.inputs >= 0]) != (merge.inputs == 0).sum()).any():
        raise DataError(f"{where}: its inputs have different numbers of positions")
    if len(merge.mean) not in (0, count) or (len(merge.mean) and not merge.bias):
        raise DataError(f"{where}: {len(merge.mean)} means; allowed: {count}, or none without a bias")
    return merge
