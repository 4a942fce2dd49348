"""A plan as one picture: every layer in the order of execution, with its kept and its removed part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.plans import UNPRICED, Plan
from prunus.report.formats import count
from prunus.report.meters import Meter, asked, limit_share, meters
from prunus.report.outline import Line, Pair, Part, lines, outline
from prunus.report.plots.canvas import COLOURS, FAINT, GRID, INK, PAPER, draw
from prunus.report.plots.sheet import Sheet, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prunus.graph.coupling import Coupling

MOST_LINES = 64
"""The number of layers above which blocks or stages are drawn, with their layers side by side."""

KEPT = COLOURS["weight"]
_ROW, _TOP = 15.0, 128.0
_NAMES, _BARS, _BAR, _UNITS = 16.0, 206.0, 190.0, 402.0
_PARAMS, _MACS, _METER, _WIDE = 480.0, 636.0, 42.0, 792.0


def plan_picture(coupling: Coupling, plan: Plan, title: str) -> str:
    """Draw the kept part of every layer of a plan, as SVG.

    The length of a bar is √width of its layer, so that 10 and 1000 units fit on one page; its coloured part is the
    exact kept share. The columns at the right and the lines of stages and blocks hold exact prices.

    Args:
        coupling: the analysed model.
        plan: a plan for this model, with its price.
        title: the title of the picture.
    """
    root = outline(coupling, plan)
    shown = lines(root, MOST_LINES)
    height = _TOP + _ROW * len(shown) + 34

    def paint(figure: Figure) -> None:
        sheet = Sheet.on(figure, _WIDE, height)
        _header(sheet, plan, root, title)
        rows = _Rows(sheet, max((sum(c.units[0] ** 0.5 for c in line.cells) for line in shown), default=1.0) or 1.0)
        for i, line in enumerate(shown):
            rows.draw(i, line)
        _legend(sheet, height - 14, masked=bool(plan.masks), dropped=any(p.dropped for p in root.leaves()))

    return draw("plan", (_WIDE / 72, height / 72), paint, _alt(title, root), _tips(shown))


def _alt(title: str, root: Part) -> str:
    kept = f"{count(root.params[1])} of {count(root.params[0])} parameters"
    return (
        f"{title}: {kept} and {count(root.macs[1])} of {count(root.macs[0])} forward MACs stay; a bar for each layer."
    )


def _tips(shown: list[Line]) -> list[tuple[str, str]]:
    found = [(f"row-{i}", _tip(line.part)) for i, line in enumerate(shown)]
    cells = [
        (f"cell-{i}-{j}", _tip(cell))
        for i, line in enumerate(shown)
        if len(line.cells) > 1
        for j, cell in enumerate(line.cells)
    ]
    return found + cells


def _tip(part: Part) -> str:
    words = [f"{part.id} ({part.kind})" if part.kind else part.id]
    if part.dropped:
        words.append("dropped")
    elif part.units[0]:
        words.append(f"{part.units[1]:,} of {part.units[0]:,} units stay")
    words.append(f"parameters {part.params[0]:,} → {part.params[1]:,}")
    words.append(f"MACs {part.macs[0]:,} → {part.macs[1]:,}")
    return "\n".join([*words, *part.why])


def _header(sheet: Sheet, plan: Plan, root: Part, title: str) -> None:
    sheet.text(_NAMES, 22, shortened(title, 84), fontsize=14, weight="bold")
    sheet.text(_NAMES, 41, shortened(asked(plan.settings), 140), fontsize=9.5)
    zeros = " not zero" if plan.masks else ""
    if plan.before != UNPRICED:
        shown = meters(plan, root)
        step = (_WIDE - 2 * _NAMES + 20) / max(3, len(shown))
        for i, (meter, pair) in enumerate(shown):
            _meter(sheet, _NAMES + i * step, step - 20, meter, pair, limit_share(plan, meter.metric))
    y = _TOP - 12
    heads = ((_NAMES, "layer"), (_BARS, "width"), (_PARAMS, f"parameters{zeros}"), (_MACS, "forward MACs"))
    for x, label in heads:
        sheet.text(x, y, label, weight="bold")
    sheet.box(_NAMES, y + 9, _WIDE - 2 * _NAMES, 0.8, INK)


def _meter(sheet: Sheet, x: float, wide: float, meter: Meter, pair: Pair, limit: float | None) -> None:
    share = pair[1] / pair[0]
    sheet.text(x, 63, meter.label)
    sheet.text(x + wide, 63, f"{meter.form(pair[0])} → {meter.form(pair[1])}", ha="right")
    sheet.box(x, 71, wide, 8, GRID)
    sheet.box(x, 71, wide * share, 8, KEPT)
    sheet.text(x, 88, f"{share:.1%} left", weight="bold")
    if limit is not None:
        sheet.box(x + wide * limit - 0.6, 68, 1.2, 14, INK)
        sheet.text(x + wide, 88, f"budget {limit:.4g}", ha="right")


def _legend(sheet: Sheet, y: float, *, masked: bool, dropped: bool) -> None:
    x = _NAMES
    entries = [(KEPT, 1.0, "stays"), (KEPT, 0.4, "stays, weights at zero"), (GRID, 1.0, "goes")]
    for colour, alpha, label in entries if masked else [entries[0], entries[2]]:
        sheet.box(x, y - 4, 14, 8, colour, alpha=alpha)
        sheet.text(x + 18, y, label)
        x += 30 + 4.6 * len(label)
    if dropped:
        sheet.hatched(x, y - 4, 14, 8)
        sheet.text(x + 18, y, "dropped whole")
    sheet.text(_WIDE - _NAMES, y, "length of a bar: √ of the layer's width", ha="right")


@dataclass(frozen=True, slots=True)
class _Rows:
    """Draws the lines of the outline; ``longest`` is the largest Σ√width of a line."""

    sheet: Sheet
    longest: float

    def draw(self, i: int, line: Line) -> None:
        sheet, top = self.sheet, _TOP + _ROW * i
        middle = top + _ROW / 2
        if line.depth == 0 and i and not line.start:
            sheet.box(_NAMES, top, _WIDE - 2 * _NAMES, 0.5, GRID)
        if line.start:
            sheet.text(_NAMES + 10 * line.depth + 10, middle, f"… {line.start + 1}–{line.start + len(line.cells)}")
        else:
            self._words(line, middle)
        for j, (x, wide, cell) in enumerate(self._placed(line.cells)):
            self._bar(x, top + 3, wide, cell)
            if len(line.cells) > 1:
                sheet.touchable(x, top, wide, _ROW, f"cell-{i}-{j}", above=1)
        sheet.touchable(_NAMES, top, _WIDE - 2 * _NAMES, _ROW, f"row-{i}")

    def _words(self, line: Line, middle: float) -> None:
        sheet, part = self.sheet, line.part
        bold = "bold" if line.depth == 0 else "normal"
        sheet.text(_NAMES + 10 * line.depth, middle, shortened(part.name, 30 - 2 * line.depth), weight=bold)
        if line.cells:
            layers = sum(1 for _ in part.leaves())
            sheet.text(_UNITS, middle, _units(part) if layers == 1 else f"{layers} layers")
        self._price(_PARAMS, middle, part.params, part.dropped)
        self._price(_MACS, middle, part.macs, part.dropped)

    def _placed(self, cells: tuple[Part, ...]) -> list[tuple[float, float, Part]]:
        gap, x, found = 1.5, _BARS, []
        for cell in cells:
            step = _BAR * cell.units[0] ** 0.5 / self.longest
            found.append((x, max(0.5, step - gap), cell))
            x += step
        return found

    def _bar(self, x: float, y: float, wide: float, part: Part) -> None:
        sheet, high = self.sheet, _ROW - 6
        if part.dropped:
            sheet.hatched(x, y, wide, high)
            return
        kept = wide * part.units[1] / max(part.units[0], 1)
        sheet.box(x, y, wide, high, GRID)
        filled = part.params[1] / part.stored if part.stored else 1.0
        sheet.box(x, y, kept, high, PAPER)
        sheet.box(x, y, kept, high, KEPT, alpha=0.4)
        sheet.box(x, y, kept * filled, high, KEPT)

    def _price(self, x: float, y: float, pair: Pair, dropped: bool) -> None:
        sheet, (before, after) = self.sheet, pair
        if not before:
            return
        sheet.box(x, y - 2, _METER, 4, GRID)
        sheet.box(x, y - 2, _METER * after / before, 4, KEPT)
        text = count(before) if before == after else f"{count(before)} → {count(after)}"
        sheet.text(x + _METER + 6, y, text, color=FAINT if dropped else INK)


def _units(part: Part) -> str:
    before, after = part.units
    if part.dropped:
        return "dropped"
    return f"{before:,}" if before == after else f"{after:,} of {before:,}"
