"""Bars per method at one kept fraction: size and accuracy before and after, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from prunus.report.formats import count, kept_label, percent
from prunus.report.plots.canvas import COLOURS, FAINT, GRID, INK, PAPER, axes_at, draw, gid
from prunus.report.plots.scale import accuracy_axis
from prunus.report.results import Results
from prunus.report.seed_averages import Cell, at, dense_cell, make_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.235
_NAMES = 1.6


def cost_bars(results: Results, kept: float) -> tuple[str, str, str]:
    """Draw parameters, MACs and accuracy before and after pruning at one kept fraction, as three SVGs.

    Parameters and MACs are in percent of the dense network; the solid part of the first is not zero.

    Args:
        results: the results of a comparison.
        kept: one of its kept fractions.
    """
    cells, dense = at(make_cells(results), kept), dense_cell(results)
    label = f"{kept_label(kept)} kept"

    def params(axes: Axes) -> None:
        _bars(axes, cells, [100 * c.params / dense.params for c in cells], light=True)
        _bars(axes, cells, [100 * c.nonzero / dense.params for c in cells], texts=[count(c.nonzero) for c in cells])
        _share_axis(axes, f"parameters, % of {count(dense.params)}")

    def macs(axes: Axes) -> None:
        shares = [100 * c.macs_forward / max(dense.macs_forward, 1) for c in cells]
        _bars(axes, cells, shares, texts=[count(c.macs_forward) for c in cells])
        _share_axis(axes, f"forward MACs, % of {count(dense.macs_forward)}")

    return (
        _chart("params", kept, cells, params, f"Bars: parameters stored and not zero for each method, {label}."),
        _chart("macs", kept, cells, macs, f"Bars: forward multiply-accumulates for each method, {label}."),
        _chart(
            "accuracy",
            kept,
            cells,
            lambda axes: _before_after(axes, cells, dense),
            f"Accuracy of each method before and after recovery, {label}.",
        ),
    )


def stability(results: Results, kept: float) -> str:
    """Draw mean accuracy and worst class of each method with their range over seeds, as SVG.

    Args:
        results: the results of a comparison.
        kept: one of its kept fractions.
    """
    cells, dense = at(make_cells(results), kept), dense_cell(results)

    def paint(axes: Axes) -> None:
        for y, cell in enumerate(cells):
            colour, group = COLOURS[cell.level], gid(cell.level, cell.method)
            axes.plot([cell.worst_class.mean, cell.accuracy.mean], [y, y], color=GRID, linewidth=3, zorder=1)
            for spread, marker in ((cell.worst_class, "v"), (cell.accuracy, "o")):
                axes.plot([spread.min, spread.max], [y, y], color=colour, linewidth=1.6, zorder=2)
                axes.plot([spread.mean], [y], marker, color=colour, markersize=7, markeredgecolor=PAPER, zorder=3)
            axes.lines[-1].set_gid(group)
        axes.axvline(dense.accuracy.mean, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
        axes.axvline(dense.worst_class.mean, color=INK, linewidth=1, dashes=(1, 2), zorder=1)
        spreads = [spread for cell in (*cells, dense) for spread in (cell.accuracy, cell.worst_class)]
        ends = [end for spread in spreads for end in (spread.min, spread.max)]
        accuracy_axis(axes, ends, vertical=False, stretched=False)
        axes.set_xlabel("▼ worst class    ● accuracy, %")

    alt = f"Accuracy and worst-class recall of each method with their range over seeds, {kept_label(kept)} kept."
    return _chart("stability", kept, cells, paint, alt, width=5.4)


def _chart(
    name: str, kept: float, cells: Sequence[Cell], fill: Callable[[Axes], None], alt: str, width: float = 4.6
) -> str:
    def paint(figure: Figure) -> None:
        axes = axes_at(figure, _NAMES, 0.42, 0.5, 0.1)
        fill(axes)
        axes.set_yticks(range(len(cells)), [cell.method for cell in cells])
        for tick, cell in zip(axes.get_yticklabels(), cells, strict=True):
            tick.set_color(COLOURS[cell.level])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")

    return draw(f"{name}-{1000 * kept:.0f}", (width, 0.6 + _ROW * len(cells)), paint, alt)


def _bars(
    axes: Axes, cells: Sequence[Cell], shares: list[float], *, light: bool = False, texts: Sequence[str] = ()
) -> None:
    colours = [COLOURS[cell.level] for cell in cells]
    axes.barh(range(len(cells)), shares, height=0.68, color=colours, linewidth=0, alpha=0.25 if light else 1.0)
    for y, (share, text) in enumerate(zip(shares, texts, strict=False)):
        inside = share > 82
        shift, ha, colour = (-4, "right", PAPER) if inside else (4, "left", INK)
        look: dict[str, Any] = {"ha": ha, "va": "center", "fontsize": 8.5, "color": colour}
        axes.annotate(text, (share, y), (shift, 0), textcoords="offset points", **look)


def _share_axis(axes: Axes, label: str) -> None:
    axes.set_xlim(0, max(100.0, axes.dataLim.x1))
    axes.axvline(100, color=INK, linewidth=1, dashes=(4, 3))
    axes.set_xlabel(label)


def _before_after(axes: Axes, cells: Sequence[Cell], dense: Cell) -> None:
    for y, cell in enumerate(cells):
        colour = COLOURS[cell.level]
        axes.plot([cell.before, cell.accuracy.mean], [y, y], color=FAINT, linewidth=1.6, zorder=1)
        axes.plot([cell.before], [y], "o", color=PAPER, markeredgecolor=colour, markersize=6.5, zorder=2)
        axes.plot([cell.accuracy.mean], [y], "o", color=colour, markersize=7, zorder=3)
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate(percent(cell.accuracy.mean), (1.0, y), (4, 0), fontsize=8.5, **where)
    axes.axvline(dense.accuracy.mean, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
    values = [share for cell in (*cells, dense) for share in (cell.before, cell.accuracy.mean)]
    accuracy_axis(axes, values, vertical=False, stretched=False)
    axes.set_xlabel("accuracy, %: ○ before, ● after recovery")
