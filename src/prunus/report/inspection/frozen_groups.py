"""What cannot go, gathered by reason."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.report.inspection.reasons import kind, meaning
from prunus.report.inspection.record import FrozenPart, Inspection


@dataclass(frozen=True, slots=True)
class Held:
    """One reason for which dims are frozen.

    Attributes:
        reason, meaning: the word of the analysis, and what it says.
        tensors: how many parameters have a dim that is frozen for it.
        params: scalars of those among them that lie on no removable axis at all: they can never shrink.
        place, places: where it was found out first, and in how many places.
    """

    reason: str
    meaning: str
    tensors: int
    params: int
    place: str
    places: int


def held_by_reason(inspection: Inspection) -> list[Held]:
    """Gather the frozen dims of all parameters by reason, the one that holds most first."""
    on_axes = {member.rpartition("[")[0] for axis in inspection.axes for member in axis.members}
    grouped: dict[str, list[FrozenPart]] = {}
    for item in inspection.frozen:
        grouped.setdefault(kind(item.reason), []).append(item)
    found = []
    for reason, items in grouped.items():
        tensors = {item.tensor: item.numel for item in items}
        places = dict.fromkeys(_place(item) for item in items)
        held = sum(numel for name, numel in tensors.items() if name not in on_axes)
        told = dict.fromkeys(meaning(item.reason) for item in items)
        also = f" and {len(told) - 1} more like it" if len(told) > 1 else ""
        found.append(Held(reason, next(iter(told)) + also, len(tensors), held, next(iter(places)), len(places)))
    return sorted(found, key=lambda h: (-h.params, -h.tensors))


def _place(item: FrozenPart) -> str:
    if not item.source:
        return item.module or ("the network's inputs" if item.op else item.tensor)
    module = item.module or "(top level)"
    return f"{module} at {item.source}"
