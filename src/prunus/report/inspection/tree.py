"""The rows of the module tree: modules without content are left out, equal neighbours are folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from prunus.report.inspection.frozen_groups import kind as kind_of
from prunus.report.inspection.record import FrozenPart, InspectionRecord, ModulePart

# Every convolution keeps its kernel; a note on each row would hide the other reasons.
_OBVIOUS = ("kernel",)
_MOST_AXES, _MOST_DIMS = 4, 3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tree; ``label`` starts with the lines that draw its branches."""

    label: str
    kind: str
    params: int
    macs: int
    axes: str
    frozen: str


def tree_rows(inspection: InspectionRecord, depth: int | None = None) -> Iterator[Row]:
    """Yield the rows of the module tree, outside before inside.

    Modules without parameters, MACs or axes are left out. Neighbours of the same class with the same counts, axes and
    frozen dims inside too are one row, whose counts are their sums.

    Args:
        inspection: the inspection.
        depth: the number of levels to show under the root; None means all.
    """
    yield from _Tree(inspection).rows(depth)


class _Tree:
    def __init__(self, inspection: InspectionRecord) -> None:
        self.sizes = {axis.id: axis.size for axis in inspection.axes}
        self.root = inspection.modules[0]
        self.children: dict[str, list[ModulePart]] = {}
        self.says: set[str] = set()
        for module in reversed(inspection.modules):
            speaks = module.params or module.macs or module.axes or module.frozen or module.tied
            if speaks or module.path in self.says:
                self.says |= {module.path, module.path.rpartition(".")[0]}
        for module in inspection.modules[1:]:
            if module.path in self.says:
                self.children.setdefault(module.path.rpartition(".")[0], []).append(module)
        self.forms: dict[str, object] = {}

    def rows(self, depth: int | None) -> Iterator[Row]:
        yield self._row([self.root], self.root.kind, closed=depth == 0)
        yield from self._below("", "", depth)

    def _below(self, path: str, guides: str, depth: int | None) -> Iterator[Row]:
        if depth is not None and depth <= 0:
            return
        runs = list(self._runs(self.children.get(path, [])))
        deeper = None if depth is None else depth - 1
        for i, (run, like) in enumerate(runs):
            last = i == len(runs) - 1
            label, kind = _named(run, like)
            yield self._row(
                run, f"{guides}{'└─ ' if last else '├─ '}{label}", kind, closed=like is not None or deeper == 0
            )
            if like is None:
                yield from self._below(run[0].path, f"{guides}{'   ' if last else '│  '}", deeper)

    def _runs(self, siblings: Sequence[ModulePart]) -> Iterator[tuple[list[ModulePart], ModulePart | None]]:
        """Yield each new module alone, and the following modules like it together, with the one they resemble."""
        at = 0
        while at < len(siblings):
            first = siblings[at]
            end = at + 1
            while end < len(siblings) and self._form(siblings[end]) == self._form(first):
                end += 1
            alike, at = list(siblings[at + 1 : end]), end
            yield [first], None
            if len(alike) > 1 or (alike and first.path in self.children):
                yield alike, first
            else:
                yield from (([m], None) for m in alike)

    def _form(self, module: ModulePart) -> object:
        """Return everything of a module but its path; two modules look alike if their forms are equal."""
        if module.path not in self.forms:
            inner = tuple((_leaf(c), self._form(c)) for c in self.children.get(module.path, []))
            axes = tuple((a.partition(":")[2], self.sizes[a]) for a in module.axes)
            frozen = tuple((_leaf_of(f), f.size, kind_of(f.reason)) for f in module.frozen)
            self.forms[module.path] = (module.kind, module.params, module.macs, bool(module.tied), axes, frozen, inner)
        return self.forms[module.path]

    def _row(self, run: Sequence[ModulePart], label: str, kind: str = "", *, closed: bool) -> Row:
        inside = [m for top in run for m in self._all(top)] if closed else list(run)
        return Row(
            label=label,
            kind=kind,
            params=sum(m.params for m in run),
            macs=sum(m.macs for m in run),
            axes=self._axes(inside),
            frozen=_reasons(inside) if len(inside) > 1 else _details(run[0]),
        )

    def _all(self, module: ModulePart) -> Iterator[ModulePart]:
        yield module
        for child in self.children.get(module.path, []):
            yield from self._all(child)

    def _axes(self, inside: Sequence[ModulePart]) -> str:
        ids = [a for m in inside for a in m.axes]
        if len(inside) > 1 and ids:
            return f"{len(ids)} {'axis' if len(ids) == 1 else 'axes'}"
        return _short([f"{a.partition(':')[2]} {self.sizes[a]}" for a in ids], _MOST_AXES, ", ")


def _named(run: Sequence[ModulePart], like: ModulePart | None) -> tuple[str, str]:
    first, last = _leaf(run[0]), _leaf(run[-1])
    if like is None:
        return first, run[0].kind
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(_leaf(like), first, last, strict=False))
    shared = len("".join(letters[0] for letters in same).rstrip("0123456789"))
    span = first if len(run) == 1 else f"{first} … {last[shared:]}"
    return f"{span} (like {_leaf(like)[shared:]})", f"{len(run)}× {run[0].kind}"


def _leaf(module: ModulePart) -> str:
    return module.path.rpartition(".")[2]


def _leaf_of(item: FrozenPart) -> str:
    return f"{item.tensor.rpartition('.')[2]}[{item.dim}]"


def _reasons(inside: Sequence[ModulePart]) -> str:
    return ", ".join(dict.fromkeys(kind_of(f.reason) for m in inside for f in m.frozen if f.reason not in _OBVIOUS))


def _details(module: ModulePart) -> str:
    grouped: dict[str, dict[str, None]] = {}
    for item in module.frozen:
        if item.reason not in _OBVIOUS:
            grouped.setdefault(kind_of(item.reason), {})[_leaf_of(item)] = None
    frozen = [f"{reason}: {_short(list(places), _MOST_DIMS, ' ')}" for reason, places in grouped.items()]
    return ", ".join(frozen + [f"tied to {first}" for _, first in module.tied])


def _short(texts: Sequence[str], most: int, joint: str) -> str:
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return joint.join([*texts[:most], *more])
