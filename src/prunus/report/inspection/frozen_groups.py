"""Frozen dims grouped by reason, and the meaning of the short words for reasons."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.report.inspection.record import FrozenPart, InspectionRecord

_MEANINGS = {
    "input": "the shape of the network's input",
    "output": "the network's outputs stay as they are",
    "kernel": "positions of a kernel",
    "spatial": "positions in an image or a sequence",
    "pool": "positions in an image or a sequence",
    "resample": "positions in an image or a sequence",
    "select": "an op picks elements by a fixed position",
    "index": "an op picks elements by position",
    "mask": "an op picks elements by a mask",
    "stride": "an op takes every n-th element",
    "triangle": "an op treats rows and columns by position",
    "causal": "an op treats rows and columns by position",
    "vocabulary": "rows of an embedding are picked by the input",
    "gates": "the gates of a recurrent cell",
    "layers": "layers and directions of a recurrent state",
    "experts": "all experts are routed to",
    "softmax": "a softmax runs over it",
    "stack": "parts that were stacked",
    "repeat": "copies of the same",
    "reshape": "a reshape that mixes dims",
    "unused": "the forward never reads it",
    "empty": "it has no elements",
    "single": "it meets parts of size one, which nothing tells apart",
    "topk": "an op ranks along it",
    "statistic": "running statistics",
    "one_hot": "classes that were counted out",
}


_KEPT = {
    "the code writes": "number in the code",
    "head dims stay whole": "heads go whole",
    "sizes must agree": "sizes must agree",
}
"""Beginning of a reason from kept forwards → its short word."""


def kind(reason: str) -> str:
    """Return the short word of a reason; reasons from kept forwards are sentences.

    Example:
        >>> kind("gates"), kind("sizes must agree: its pieces are equal")
        ('gates', 'sizes must agree')
    """
    for start, word in _KEPT.items():
        if reason.startswith(start):
            return word
    if "torch's attention" in reason:
        return "heads go whole"
    return reason.partition(": ")[0] if " " in reason and reason not in _MEANINGS else reason


def meaning(reason: str) -> str:
    """Explain a reason in words; the name of an op as a reason means that the op runs along the dim.

    Example:
        >>> meaning("gates"), meaning("cumsum"), meaning("sizes must agree: its pieces are equal")
        ('the gates of a recurrent cell', 'cumsum runs along it', 'its pieces are equal')
    """
    if reason in _MEANINGS:
        return _MEANINGS[reason]
    if reason.startswith("no rule for "):
        return "an op that the analysis does not know"
    if reason.startswith("conflict in "):
        return "dims that could not be aligned"
    if " " in reason:
        return reason.removeprefix("sizes must agree: ")
    return f"{reason} runs along it"


@dataclass(frozen=True, slots=True)
class Held:
    """One reason for which dims are frozen.

    Attributes:
        reason, meaning: the word of the analysis, and its explanation.
        tensors: the number of parameters with a dim that is frozen for this reason.
        params: scalars of those among them that lie on no removable axis and so never shrink.
        place, places: the first place that freezes for this reason, and the number of places.
    """

    reason: str
    meaning: str
    tensors: int
    params: int
    place: str
    places: int


def held_by_reason(inspection: InspectionRecord) -> list[Held]:
    """Group the frozen dims of all parameters by reason, most frozen scalars first."""
    on_axes = {member.rpartition("[")[0] for axis in inspection.axes for member in axis.members}
    grouped: dict[str, list[FrozenPart]] = {}
    for item in inspection.frozen:
        grouped.setdefault(kind(item.reason), []).append(item)
    found = []
    for reason, items in grouped.items():
        tensors = {item.tensor: item.numel for item in items}
        places = dict.fromkeys(_place(item) for item in items)
        frozen = sum(numel for name, numel in tensors.items() if name not in on_axes)
        meanings = dict.fromkeys(meaning(item.reason) for item in items)
        also = f" and {len(meanings) - 1} more like it" if len(meanings) > 1 else ""
        found.append(Held(reason, next(iter(meanings)) + also, len(tensors), frozen, next(iter(places)), len(places)))
    return sorted(found, key=lambda h: (-h.params, -h.tensors))


def _place(item: FrozenPart) -> str:
    if not item.source:
        return item.module or ("the network's inputs" if item.op else item.tensor)
    module = item.module or "(top level)"
    return f"{module} at {item.source}"
