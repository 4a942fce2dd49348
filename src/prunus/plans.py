"""The `Plan`: the units, branches and weights to remove, with reasons; it holds no module or tensor of the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prunus.errors import DataError, PlanError, nearest, shown
from prunus.foundation.arguments import door
from prunus.foundation.atomic_files import atomic_dir
from prunus.foundation.checksum import SUM, bytes_with_checksum, checksum_error, is_changed, with_sum
from prunus.foundation.index_ranges import MOST_UNITS, count_of, from_ranges, to_ranges, unpacked_bits
from prunus.foundation.places import Contents
from prunus.foundation.strict_json import decode_record, parse_json, read_text
from prunus.foundation.user_code import one_line
from prunus.graph.ir import Graph
from prunus.substitutes import NOTHING, SUBSTITUTES, Bridge, Merge, Substitutes, same_arrays

FORMAT = "prunus-plan/1"
PLAN, MASKS = "plan.json", "masks.safetensors"
"""The files of a plan, in every folder that prunus writes for a network."""
PLAN_FILES = Contents(PLAN, frozenset({PLAN, MASKS, SUBSTITUTES}), '"format": "prunus-plan/')
MOST_BYTES = 2**28
"""The longest plan file in bytes, checked before it is read."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Exact counts of a network: 1 MAC is one multiply and one add.

    ``macs_backward`` counts the products for gradients of weights and of activations; bytes are dense. ``latency_fs``
    is predicted, not counted, in femtoseconds (10¹² of them are a millisecond); 0 where no op was timed.
    """

    params: int
    macs_forward: int
    macs_backward: int
    param_bytes: int
    latency_fs: int = 0


UNPRICED = Cost(0, 0, 0, 0)
"""The cost of a plan that only serves to run the masked network and is never shown."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A branch that is bypassed: operand ``operand`` of the addition ``join`` is left out."""

    join: str
    operand: int
    label: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a plan for people: the part, the number of units removed, the savings, the damage, the reason.

    Attributes:
        saves_params, saves_macs: params and MACs that return if this decision alone is undone.
        score_share: removed share of the node's total score, 0 to 1; None where nothing was scored.
        damage: predicted increase of the loss, in units of the loss; None where it was not measured.
    """

    node: str
    level: str
    removed: int
    total: int
    reason: str
    saves_params: int = 0
    saves_macs: int = 0
    score_share: float | None = None
    damage: float | None = None


@dataclass(frozen=True, slots=True)
class Mend:
    """A changed number of a module; ``name`` may lead into tuples, dicts, settings: ``dims[2]``, ``config.width``."""

    path: str
    name: str
    old: int
    new: int

    def __str__(self) -> str:
        where = f"{self.path}.{self.name}" if self.path else self.name
        return f"{where}: {self.old} → {self.new}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions needed to cut one model.

    Attributes:
        fingerprint: hash of the model's structure; `apply` refuses a model with another one.
        axes: axis id → mask of the units that stay (bool array); axes that are not named stay whole.
        keep: tensor name → dim → kept indices, computed from ``axes``.
        drops: bypassed branches.
        masks: tensor name → mask of the weights that stay (bool array of the original shape).
        mended: numbers of modules that a cut changes, where forwards are kept.
        merges: shares of removed inputs that the kept inputs of a layer take over.
        bridges: modules in place of removed ones; fingerprint, axes and tensors are then those of the bridged model.
        before, after: exact price of the model and of the cut model.
    """

    fingerprint: str
    axes: Mapping[str, np.ndarray]
    keep: Mapping[str, Mapping[int, np.ndarray]]
    drops: tuple[Drop, ...] = ()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    before: Cost = UNPRICED
    after: Cost = UNPRICED
    settings: Mapping[str, Any] = field(default_factory=dict)
    mended: tuple[Mend, ...] = ()
    merges: tuple[Merge, ...] = ()
    bridges: tuple[Bridge, ...] = ()

    @property
    def substitutes(self) -> Substitutes:
        """The merges and the bridges."""
        return Substitutes(self.merges, self.bridges)

    @property
    def is_empty(self) -> bool:
        """Tell whether applying the plan would change nothing."""
        whole = all(m.all() for m in self.axes.values()) and all(m.all() for m in self.masks.values())
        return whole and not self.drops and not self.bridges

    @property
    def masked(self) -> int:
        """The number of weights of the cut network that the masks hold at zero."""
        return sum(int((~mask).sum()) for mask in self.cut_masks().values())

    def cut_masks(self) -> dict[str, np.ndarray]:
        """Return the masks in the shapes of the cut network."""
        masks = {}
        for name, mask in self.masks.items():
            for dim, index in self.keep.get(name, {}).items():
                mask = mask.take(index, axis=dim)
            masks[name] = mask
        return masks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        equal = self.describe() == other.describe() and same_arrays(self.masks, other.masks)
        return equal and self.substitutes.same(other.substitutes)

    __hash__ = None  # type: ignore[assignment]

    def describe(self) -> dict[str, Any]:
        """Return the JSON form without the masks; index sets are written as ranges, ``"0-3,7"``."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "axes": {k: {"size": len(m), "keep": to_ranges(np.flatnonzero(m))} for k, m in self.axes.items()},
            "tensors": {t: {str(d): to_ranges(i) for d, i in dims.items()} for t, dims in self.keep.items()},
            "drops": [asdict(d) for d in self.drops],
            "masks": {k: {"shape": list(m.shape), "kept": int(m.sum())} for k, m in self.masks.items()},
            "mended": [asdict(m) for m in self.mended],
            "decisions": [asdict(d) for d in self.decisions],
            "before": asdict(self.before),
            "after": asdict(self.after),
            "settings": dict(self.settings),
            **self.substitutes.describe(),
        }

    @door("Plan.save")
    def save(self, folder: Path | str) -> None:
        """Make or replace a folder: ``plan.json``, and ``masks.`` and ``substitutes.safetensors`` where it has them."""
        with atomic_dir(folder, PLAN_FILES) as tmp:
            self.write(tmp)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into a folder that may hold other files."""
        import torch

        (folder / PLAN).write_text(json.dumps(with_sum(self.describe()), indent=1) + "\n", encoding="utf-8")
        if self.masks:
            packed = {k: torch.from_numpy(np.packbits(m.reshape(-1))) for k, m in self.masks.items()}
            (folder / MASKS).write_bytes(bytes_with_checksum(packed, {}))
        self.substitutes.write(folder)

    @staticmethod
    @door("Plan.load")
    def load(folder: Path | str) -> Plan:
        """Read a plan from the folder that `save` wrote; ``plan.json`` may have been edited since.

        Raises:
            PlanError: missing or damaged file, a key that occurs twice, another format version.
        """
        return read_plan(folder)[0]

    @staticmethod
    def from_description(
        text: Mapping[str, Any],
        masks: Mapping[str, np.ndarray],
        substitutes: Substitutes = NOTHING,
        where: str = "plan",
    ) -> Plan:
        """Build a plan from its JSON form, its masks, merges and bridges."""
        _check_form(text, where)
        _check_room(text, where)
        try:
            return Plan(
                fingerprint=text["fingerprint"],
                axes={k: _axis_of(k, v, where) for k, v in text["axes"].items()},
                keep={t: _kept_of(t, dims, where) for t, dims in text["tensors"].items()},
                drops=tuple(_drop_of(d) for d in text["drops"]),
                masks=masks,
                decisions=tuple(decode_record(Decision, d, "decisions") for d in text["decisions"]),
                before=_cost_of(text["before"], "before"),
                after=_cost_of(text["after"], "after"),
                settings=text["settings"],
                mended=tuple(decode_record(Mend, m, "mended") for m in text["mended"]),
                merges=substitutes.merges,
                bridges=substitutes.bridges,
            )
        except (DataError, AttributeError, KeyError, TypeError, ValueError) as error:
            kind = "" if isinstance(error, DataError) else f"{type(error).__name__} "
            raise PlanError(f"{where} is damaged: {kind}{one_line(error, 200).rstrip('.')}.") from error


def read_plan(folder: Path | str) -> tuple[Plan, bool]:
    """Read a plan as `Plan.load`; return too whether ``plan.json`` was edited since prunus wrote it.

    Its checksum tells an edit; a plan that was written before there were checksums counts as not edited.
    """
    path = Path(folder) / PLAN
    if not path.is_file():
        raise PlanError(f"No plan at {path}; give the folder that `Plan.save` wrote.")
    text = _parsed(path)
    edited = is_changed(text)
    if isinstance(text, dict):
        text.pop(SUM, None)
    _check_form(text, str(path))
    substitutes = Substitutes.read(path.parent, text)
    return Plan.from_description(text, _read_masks(path.parent, text), substitutes, str(path)), edited


def _drop_of(value: Any) -> Drop:  # a branch added by hand has a name alone; `review.settle` finds the rest
    return Drop("", 0, value) if isinstance(value, str) else decode_record(Drop, value, "drops")


def _cost_of(value: Any, name: str) -> Cost:
    cost = decode_record(Cost, value, name)
    if least := min(0, *asdict(cost).values()):
        raise DataError(f"{name} holds the count {least}; allowed: 0 or more")
    return cost


def _axis_of(name: str, value: Any, where: str) -> np.ndarray:
    form = {"size": int, "keep": str}
    if not isinstance(value, dict) or {k: type(v) for k, v in value.items()} != form:
        raise PlanError(f"{where}: axis {name[:100]!r} is {shown(value)}; allowed: {{'size': 8, 'keep': '0-3,6'}}.")
    try:
        return _to_mask(value["keep"], value["size"])
    except ValueError as error:
        raise PlanError(f"{where}: axis {name[:100]!r}: {error}; allowed: ranges in rising order, '0-3,6'.") from None


def _kept_of(name: str, value: Any, where: str) -> dict[int, np.ndarray]:
    if not isinstance(value, dict) or not all(k.isdigit() and isinstance(v, str) for k, v in value.items()):
        raise PlanError(
            f"{where}: tensor {name[:100]!r} is {shown(value)}; allowed: dims and ranges, {{'0': '0-3,6'}}."
        )
    try:
        return {int(dim): from_ranges(text) for dim, text in value.items()}
    except ValueError as error:
        raise PlanError(f"{where}: tensor {name[:100]!r}: {error}; allowed: ranges in rising order, '0-3,6'.") from None


def _parsed(path: Path) -> Any:
    try:
        return parse_json(read_text(path, MOST_BYTES), str(path))
    except DataError as error:
        raise PlanError(str(error)) from error


_FORMS: Mapping[str, type] = {
    "format": str,
    "fingerprint": str,
    "axes": dict,
    "tensors": dict,
    "drops": list,
    "masks": dict,
    "mended": list,
    "decisions": list,
    "before": dict,
    "after": dict,
    "settings": dict,
}
"""Key of the JSON form → type of its value."""
_OPTIONAL = {"merges": list, "bridges": list}
_WORDS: Mapping[type, str] = {str: "a text", dict: "an object {…}", list: "a list […]"}


def _check_form(text: Any, where: str) -> None:
    """Refuse another format, missing or unknown keys, and values of another type."""
    if not isinstance(text, dict):
        raise PlanError(f"{where} is {shown(text)}; a plan is an object with the keys {', '.join(_FORMS)}.")
    if text.get("format") != FORMAT:
        raise PlanError(f"{where} has format {shown(text.get('format'))}; this version reads {FORMAT!r}.")
    known = {**_FORMS, **_OPTIONAL}
    for key in text:
        if key not in known:
            raise PlanError(
                f"{where} has an unknown key {key[:60]!r}.{nearest(key, known)} Allowed: {', '.join(known)}."
            )
    for key, kind in known.items():
        if key in _OPTIONAL and key not in text:
            continue
        if key not in text:
            raise PlanError(f"{where} is damaged: the key {key!r} is missing; write the plan again.")
        if not isinstance(text[key], kind):
            raise PlanError(f"{where} is damaged: {key!r} is {shown(text[key])}; allowed: {_WORDS[kind]}.")


def _check_room(text: Mapping[str, Any], where: str) -> None:
    """Refuse a plan whose units together would take more memory than a plan of any network does."""
    axes = (value.get("size") for value in text["axes"].values() if isinstance(value, dict))
    dims = (dims for dims in text["tensors"].values() if isinstance(dims, dict))
    kept = sum(count_of(ranges) for part in dims for ranges in part.values() if isinstance(ranges, str))
    units = kept + sum(size for size in axes if type(size) is int and size > 0)
    if units > MOST_UNITS:
        raise PlanError(f"{where} names {units:,} units in all; allowed: {MOST_UNITS:,}. Write the plan again.")


def fingerprint(graph: Graph) -> str:
    """Return a short hash of a model's structure: tensor names, shapes, kinds and the order of ops."""
    digest = hashlib.sha256()
    for name, info in sorted(graph.tensors.items()):
        digest.update(f"{name}|{info.kind}|{info.shape}|{info.dtype};".encode())
    for node in graph.nodes:
        digest.update(f"{node.op};".encode())
    return digest.hexdigest()[:16]


def _to_mask(ranges: str, size: int) -> np.ndarray:
    if not 0 <= size <= MOST_UNITS:
        raise ValueError(f"a size of {size}; allowed: 0 to {MOST_UNITS}")
    mask = np.zeros(size, bool)
    mask[from_ranges(ranges, size)] = True
    return mask


def _read_masks(folder: Path, text: Mapping[str, Any]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    listed = text.get("masks") or {}
    if not listed:
        return {}
    path = folder / MASKS
    try:
        if broken := checksum_error(path, optional=True):
            raise ValueError(broken)
        packed = load(path.read_bytes())
        return {k: unpacked_bits(packed[k], v["shape"]) for k, v in listed.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
        reason = one_line(error, 200)
        raise PlanError(f"{path} does not hold the masks that plan.json names: {reason}.") from error
