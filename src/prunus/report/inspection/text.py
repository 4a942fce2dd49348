"""An inspection on the console: the head, the module tree, the largest axes, what is frozen and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.report.inspection.frozen_groups import Held, held_by_reason
from prunus.report.inspection.record import AxisPart, InspectionRecord, NumberPart
from prunus.report.inspection.tree import Row, tree_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_TREE = ("module", "kind", "params", "%", "MACs", "%", "axes", "frozen")
_AXES = ("largest axes", "units", "tensors", "params on it", "%", "MACs on it", "%")
_HELD = ("frozen", "because", "tensors", "params held", "first place")
_NUMBERS = ("numbers in the code", "value", "comes from", "follows", "first place", "places")
_TIES = ("sizes in proportion",)
_LEFT = (
    *("module", "kind", "axes", "frozen", "largest axes", "because", "first place"),
    *("numbers in the code", "comes from", "follows", "sizes in proportion"),
)
_MOST_AXES = 6
_MOST_NUMBERS = 12
_NARROW = 130

Texts = list[list[str]]


@dataclass(frozen=True, slots=True)
class Inspection(InspectionRecord):
    """A network with its price, its axes and its frozen dims; printing it shows the module tree."""

    def __str__(self) -> str:
        return "\n".join(plain_lines(self))


def print_inspection(
    inspection: InspectionRecord, console: Console | None = None, *, depth: int | None = None, numbers: bool = False
) -> None:
    """Print an inspection: a table in colour on a terminal, the lines of `plain_lines` elsewhere.

    Args:
        inspection: the inspection.
        console: the console to print on; by default the standard output.
        depth: the number of levels of modules to show under the root; None means all.
        numbers: show every number of the code with a known origin, not only the first twelve lines.
    """
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal:
        for line in plain_lines(inspection, depth, numbers=numbers):
            console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
        return
    brief = console.width < _NARROW
    for line in _head(inspection):
        console.print(line, markup=False, highlight=False, emoji=False)
    for heads, texts in _sections(inspection, depth, brief, numbers):
        console.print(_rich_table(heads, texts))
    for line in _foot(inspection):
        console.print(line, markup=False, highlight=False, emoji=False)


def plain_lines(inspection: InspectionRecord, depth: int | None = None, *, numbers: bool = False) -> Iterator[str]:
    """Yield an inspection as lines of text of any width.

    Units: params are scalars; MACs are those of one forward on the example inputs, 1 MAC = 2 FLOP.
    """
    yield from _head(inspection)
    for heads, texts in _sections(inspection, depth, False, numbers):
        yield ""
        widths = [max(len(head), *(len(line[i]) for line in texts)) for i, head in enumerate(heads)]
        for line in (list(heads), *texts):
            cells = [
                text.ljust(width) if head in _LEFT else text.rjust(width)
                for text, head, width in zip(line, heads, widths, strict=True)
            ]
            yield "  ".join(cells).rstrip()
    if foot := list(_foot(inspection)):
        yield from ("", *foot)


def _head(found: InspectionRecord) -> Iterator[str]:
    kind = found.modules[0].kind
    yield found.name if found.name == kind else f"{found.name}: {kind}"
    yield f"inputs     {', '.join(found.inputs)}"
    yield f"cost       {found.params:,} params, {found.macs_forward:,} MACs forward, {found.macs_backward:,} backward"
    more = found.coverage_rewritten
    yield (
        f"can go     {found.coverage_params:.1%} of the params and {found.coverage_macs:.1%} of the MACs lie on "
        f"{len(found.axes)} removable {'axis' if len(found.axes) == 1 else 'axes'}"
        f"{'' if more is None else f', every forward kept; {more:.1%} of the params if forwards were rewritten'}"
    )
    yield f"captured   {found.how}: {found.nodes} ops"


def _foot(found: InspectionRecord) -> Iterator[str]:
    for unknown in found.unknown:
        yield f"no rule for {unknown.op}, first in {short_place(unknown.where)}: what it touches is frozen"
    yield from (f"note: {note}" for note in found.notes)


def _sections(
    found: InspectionRecord, depth: int | None, brief: bool, every: bool
) -> Iterator[tuple[Sequence[str], Texts]]:
    yield _TREE, [_tree_texts(row, found, brief) for row in tree_rows(found, depth)]
    if axes := _alike(found.axes)[:_MOST_AXES]:
        yield _AXES, [_axis_texts(axis, times, found, brief) for axis, times in axes]
    if held := held_by_reason(found):
        yield _HELD, [_held_texts(item, brief) for item in held]
    if found.ties:
        yield _TIES, [[tie] for tie in found.ties[:_MOST_NUMBERS]]
    if numbers := _numbers_alike(found.numbers)[: None if every else _MOST_NUMBERS]:
        yield _NUMBERS, [_number_texts(number, times) for number, times in numbers]


def _tree_texts(row: Row, found: InspectionRecord, brief: bool) -> list[str]:
    amounts = [*_amount(row.params, found.params, brief), *_amount(row.macs, found.macs_forward, brief)]
    return [row.label, row.kind, *amounts, row.axes, row.frozen]


def _alike(axes: Sequence[AxisPart]) -> list[tuple[AxisPart, int]]:
    """Return the first axis of every group with the same counts, and the size of the group, most params first."""
    groups: dict[tuple[int, ...], list[AxisPart]] = {}
    for axis in axes:
        groups.setdefault((axis.size, len(axis.members), axis.params, axis.macs), []).append(axis)
    return sorted(((group[0], len(group)) for group in groups.values()), key=lambda pair: -pair[0].params)


def _numbers_alike(numbers: Sequence[NumberPart]) -> list[tuple[NumberPart, int]]:
    """Return the first number of every group with the same value on the same line, and the size of the group.

    Numbers that a cut changes come first, sizes of values last.
    """
    groups: dict[tuple[object, ...], list[NumberPart]] = {}
    for number in numbers:
        groups.setdefault((number.op, number.argument, number.value, number.source), []).append(number)
    return sorted(
        ((group[0], len(group)) for group in groups.values()),
        key=lambda pair: (not pair[0].follows, ".shape[" in pair[0].origin),
    )


def _number_texts(number: NumberPart, times: int) -> list[str]:
    place = short_place(f"{number.module or '(top level)'} at {number.source}")
    return [f"{number.op} {number.argument}", str(number.value), number.origin, number.follows, place, str(times)]


def _axis_texts(axis: AxisPart, times: int, found: InspectionRecord, brief: bool) -> list[str]:
    amounts = [*_amount(axis.params, found.params, brief), *_amount(axis.macs, found.macs_forward, brief)]
    name = axis.id + (f" and {times - 1} like it" if times > 1 else "")
    return [name, str(axis.size), str(len(axis.members)), *amounts]


def _held_texts(item: Held, brief: bool) -> list[str]:
    place = short_place(item.place) + (f" and {item.places - 1} more" if item.places > 1 else "")
    return [item.reason, item.meaning, str(item.tensors), _count(item.params, brief), place]


def _amount(part: int, whole: int, brief: bool) -> tuple[str, str]:
    if not part:
        return "", ""
    return _count(part, brief), f"{100 * part / whole:.1f}"


def _count(number: int, brief: bool) -> str:
    if not brief:
        return f"{number:,}"
    from prunus.report.formats import count

    return count(number)


def short_place(text: str) -> str:
    """Shorten the file name in ``module at /long/way/to/package/file.py:7 in forward``; return other texts unchanged.

    Example:
        >>> short_place("layer1 at /usr/lib/python3/site-packages/net/blocks.py:7 in forward")
        'layer1 at net/blocks.py:7'
    """
    module, at, source = text.partition(" at ")
    if not at:
        return text
    path = source.partition(" in ")[0]
    inside = path.partition("/site-packages/")[2]
    return f"{module} at {inside or '/'.join(path.split('/')[-2:])}"


def _rich_table(heads: Sequence[str], texts: Texts) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    styles = {"axes": "green", "frozen": "yellow", "kind": "dim", "largest axes": "green"}
    for head in heads:
        left = head in _LEFT
        wraps = head in ("axes", "because", "first place") or (head == "frozen" and len(heads) == len(_TREE))
        table.add_column(
            head,
            justify="left" if left else "right",
            no_wrap=not wraps,
            overflow="fold",
            style=styles.get(head, ""),
        )
    for line in texts:
        table.add_row(*(Text(cell) for cell in line))
    return table
