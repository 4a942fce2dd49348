"""`Merge` and `Bridge`: the parts of a plan that take over the work of removed parts, and their form in its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunus.errors import DataError, PlanError, shown
from prunus.foundation.strict_json import decode_record
from prunus.foundation.user_code import one_line

SUBSTITUTES = "substitutes.safetensors"
"""The file of a plan that holds the numbers of its merges."""
MOST_BYTES = 2**31
MOST_ENTRIES = 2**16


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


@dataclass(frozen=True, slots=True, eq=False)
class Bridge:
    """A module in place of a run of modules that is removed.

    Attributes:
        path: the module that the bridge replaces.
        skipped: further modules of the run, which return their argument.
        kind: ``Bypass`` (identity), ``Scale`` (a scale and a shift of every channel), ``Pool`` (an average over
            positions), or a fitted ``Linear``, ``Conv1d``, ``Conv2d`` or ``Conv3d``.
        sizes: its whole numbers: ``stride``, ``padding``, ``dim``, ``width``, and ``results`` of a module with several.
        weight, bias: its numbers (float32); empty where it has none.
    """

    path: str
    skipped: tuple[str, ...] = ()
    kind: str = "Bypass"
    sizes: Mapping[str, int] = field(default_factory=dict)
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    bias: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def describe(self) -> dict[str, Any]:
        """Return the JSON form, without the numbers."""
        return {"path": self.path, "skipped": list(self.skipped), "kind": self.kind, "sizes": dict(self.sizes)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers by name."""
        return {"weight": self.weight, "bias": self.bias}


_KINDS: Mapping[str, type] = {
    "inputs": np.int32,
    "removed": np.int32,
    "kept": np.int32,
    "share": np.float32,
    "mean": np.float32,
}


@dataclass(frozen=True, slots=True)
class _MergeEntry:
    """One entry of ``merges`` in a plan's JSON."""

    tensor: str
    dim: int
    bias: str
    shares: int


@dataclass(frozen=True, slots=True)
class _BridgeEntry:
    """One entry of ``bridges`` in a plan's JSON."""

    path: str
    skipped: list[str]
    kind: str
    sizes: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Substitutes:
    """The merges and the bridges of a plan."""

    merges: tuple[Merge, ...] = ()
    bridges: tuple[Bridge, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the entries of a plan's JSON; none where there is nothing."""
        listed: dict[str, tuple[Merge, ...] | tuple[Bridge, ...]] = {"merges": self.merges, "bridges": self.bridges}
        return {name: [one.describe() for one in members] for name, members in listed.items() if members}

    def same(self, other: Substitutes) -> bool:
        """Return whether both are equal, numbers included."""
        return same_arrays(self._named(), other._named()) and self.describe() == other.describe()

    def write(self, folder: Path) -> None:
        """Write the numbers into a folder; nothing where there are none."""
        import torch

        from prunus.foundation.checksum import bytes_with_checksum

        if self.merges or self.bridges:
            named = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in self._named().items()}
            (folder / SUBSTITUTES).write_bytes(bytes_with_checksum(named, {}))

    def _named(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for number, merge in enumerate(self.merges):
            found |= {f"merge.{number}.{name}": value for name, value in merge.arrays().items()}
        for number, bridge in enumerate(self.bridges):
            found |= {f"bridge.{number}.{name}": value for name, value in bridge.arrays().items()}
        return found

    @staticmethod
    def read(folder: Path, text: Mapping[str, Any]) -> Substitutes:
        """Read the numbers of what a plan's JSON lists.

        Raises:
            PlanError: a missing or damaged file, entries that it does not hold, or fewer bridges than it holds.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        from prunus.foundation.checksum import checksum_error

        path = folder / SUBSTITUTES
        if not text.get("merges") and not text.get("bridges") and not path.is_file():
            return Substitutes()
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"{path.stat().st_size:,} bytes; allowed: {MOST_BYTES:,}")
            if broken := checksum_error(path):
                raise ValueError(broken)
            arrays = load(path.read_bytes())
            merges, bridges = (_listed(text, name) for name in ("merges", "bridges"))
            written = sum(name.startswith("bridge.") and name.endswith(".weight") for name in arrays)
            if len(bridges) < written:
                raise PlanError(
                    f"{folder} names {len(bridges)} of the {written} bridges of its plan. Bridges cannot be edited; "
                    "put them back, or plan again."
                )
            return Substitutes(
                tuple(_merge(n, decode_record(_MergeEntry, e, "merges"), arrays) for n, e in enumerate(merges)),
                tuple(_bridge(n, decode_record(_BridgeEntry, e, "bridges"), arrays) for n, e in enumerate(bridges)),
            )
        except (OSError, SafetensorError, DataError, KeyError, TypeError, ValueError, OverflowError) as error:
            reason = one_line(error, 200).rstrip(".")
            what = "merges" if not text.get("bridges") else "merges and bridges"
            raise PlanError(f"{path} does not hold the {what} that plan.json names: {reason}.") from error


NOTHING = Substitutes()


def bridge_lines(bridges: Sequence[Bridge]) -> list[str]:
    """Return one line of the modules that bridges replace and what stands in their place; none without bridges."""
    words = {"Bypass": "the identity", "Pool": "a pooling", "Scale": "a scale"}
    each = [f"{', '.join((*b.skipped, b.path))} by {words.get(b.kind, f'a fitted {b.kind}')}" for b in bridges]
    return [f"layers replaced: {'; '.join(each)}"] if each else []


def same_arrays(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Return whether two sets of named arrays are equal."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _listed(text: Mapping[str, Any], name: str) -> list[Any]:
    listed = text.get(name, [])
    if not isinstance(listed, list) or len(listed) > MOST_ENTRIES:
        raise DataError(f"{name} is {shown(listed)}; allowed: a list of at most {MOST_ENTRIES:,} entries")
    return listed


def _bridge(number: int, entry: _BridgeEntry, arrays: Mapping[str, np.ndarray]) -> Bridge:
    weight, bias = (arrays[f"bridge.{number}.{name}"] for name in ("weight", "bias"))
    where = f"bridge {number} ({entry.path[:100]!r})"
    for name, value in (("weight", weight), ("bias", bias)):
        if value.dtype != np.float32 or value.ndim > 5 or not np.isfinite(value).all():
            raise DataError(f"{where}: {name} is {value.dtype} of shape {value.shape}; allowed: finite float32")
    if any(not -1 <= size <= MOST_ENTRIES for size in entry.sizes.values()):
        raise DataError(f"{where}: sizes are {shown(entry.sizes)}; allowed: -1 to {MOST_ENTRIES:,}")
    return Bridge(entry.path, tuple(entry.skipped), entry.kind, entry.sizes, weight, bias)


def _merge(number: int, entry: _MergeEntry, arrays: Mapping[str, np.ndarray]) -> Merge:
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
