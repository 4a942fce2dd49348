"""Accuracy against cost: curves over the kept fraction, and marks over the measured time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prunus.report.formats import kept_label, percent, percent_spread, ratio, ratio_interval
from prunus.report.plots.canvas import COLOURS, DASHES, FAINT, INK, MARKERS, PAPER, axes_at, draw, gid
from prunus.report.plots.scale import accuracy_axis
from prunus.report.results import Results
from prunus.report.seed_averages import Cell, dense_cell, kept_fractions, levels, make_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def tradeoff(results: Results, level: str | None = None) -> str:
    """Draw accuracy after recovery against the kept fraction, one line per method, as SVG.

    The band around a line is ± one standard deviation over seeds.

    Args:
        results: the results of a comparison.
        level: draw this level in full and every other method as a faint line; None draws all levels in their colours.
    """
    cells, dense = make_cells(results), dense_cell(results)
    lines: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda item: item.kept_fraction):
        lines.setdefault((cell.level, cell.method), []).append(cell)
    ordered = sorted(lines.items(), key=lambda item: levels(cells).index(item[1][0].level))
    values = [cell.accuracy.mean for cell in (*cells, dense)]
    names = [method for (its, method) in dict(ordered) if level in (None, its)]
    rows = (len(names) + 1) // 2 if level else 1
    bottom = 0.62 + 0.19 * rows

    def paint(figure: Figure) -> None:
        axes = axes_at(figure, 0.72, 0.12, bottom, 0.12)
        places: dict[str, int] = {}
        for (its, method), members in ordered:
            places[its] = places.get(its, -1) + 1
            if level in (None, its):
                # Sixteen bands in one panel would hide each other, so the overview has none.
                _draw_line(axes, its, method, members, places[its], band=level is not None)
            else:
                _draw_faint(axes, members)
        axes.axhline(dense.accuracy.mean, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate("dense", (0.995, dense.accuracy.mean), (0, 3), ha="right", **where)
        accuracy_axis(axes, values)
        _kept_axis(axes, kept_fractions(cells))
        axes.set_ylabel("accuracy after recovery, %")
        _legend(figure, axes, level, levels(cells), len(names))

    name = f"tradeoff-{level or 'all'}"
    tips = [(gid(its, method), f"{method} ({its}): {_course(members)}") for (its, method), members in ordered]
    shown = f"the {level} methods" if level else "all methods"
    alt = f"Line chart: accuracy after recovery against the kept fraction for {shown}; dense {percent(values[-1])} %."
    return draw(name, (4.9, 2.5 + bottom) if level else (6.2, 4.1), paint, alt, tips)


def latency_scatter(results: Results) -> str:
    """Draw accuracy against the measured forward time relative to dense, as SVG.

    The colour shows the level, the marker the kept fraction, the whisker the 95 % interval. Methods that no other beats
    in both time and accuracy are named.
    """
    cells = [cell for cell in make_cells(results) if cell.forward_ratio is not None]
    dense, kept = dense_cell(results), kept_fractions(make_cells(results))
    values = [cell.accuracy.mean for cell in (*cells, dense)]

    def paint(figure: Figure) -> None:
        axes = axes_at(figure, 0.72, 0.25, 0.95, 0.22)
        axes.axvline(1.0, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
        for cell in cells:
            _draw_point(axes, cell, MARKERS[kept.index(cell.kept_fraction) % len(MARKERS)])
        axes.plot([1.0], [dense.accuracy.mean], "*", color=INK, markersize=13, zorder=5)
        accuracy_axis(axes, values)
        axes.set_xlabel("forward time ÷ dense forward time (left is faster)")
        axes.set_ylabel("accuracy after recovery, %")
        axes.grid(True)
        low, high = min(axes.get_xlim()[0], 0.9), max(axes.get_xlim()[1], 1.05)
        axes.set_xlim(low - 0.22 * (high - low), high)
        _name_front(axes, cells)
        _scatter_legend(figure, axes, cells, kept)

    tips = [
        (
            gid(cell.level, cell.method, f"{cell.kept_fraction:g}"),
            f"{cell.method}, {kept_label(cell.kept_fraction)} kept: {percent_spread(cell.accuracy, cell.n)} % at "
            f"{ratio_interval(cell.forward)} of the dense time",
        )
        for cell in cells
    ]
    alt = f"Scatter chart: accuracy against forward time relative to dense, {len(cells)} pruned networks."
    return draw("latency", (6.2, 4.5), paint, alt, tips)


def front(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that no other beats in both forward time and accuracy, fastest first."""
    best, found = -1.0, []
    for cell in sorted(cells, key=lambda item: (item.forward_ratio or 0.0, -item.accuracy.mean)):
        if cell.accuracy.mean > best:
            best = cell.accuracy.mean
            found.append(cell)
    return found


def _course(members: list[Cell]) -> str:
    return ", ".join(f"{percent_spread(c.accuracy, c.n)} % at {kept_label(c.kept_fraction)}" for c in reversed(members))


def _draw_line(axes: Axes, level: str, method: str, members: list[Cell], place: int, *, band: bool) -> None:
    kept = [cell.kept_fraction for cell in members]
    mean = [cell.accuracy.mean for cell in members]
    style: dict[str, Any] = {"color": COLOURS[level], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.6}
    marker: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": 6, "markeredgecolor": PAPER}
    axes.plot(kept, mean, label=method, gid=gid(level, method), zorder=3, markeredgewidth=0.7, **style, **marker)
    if band and any(cell.accuracy.std for cell in members):
        low = [max(0.0, cell.accuracy.mean - cell.accuracy.std) for cell in members]
        high = [min(1.0, cell.accuracy.mean + cell.accuracy.std) for cell in members]
        area = axes.fill_between(kept, low, high, color=COLOURS[level], alpha=0.13, linewidth=0, zorder=2)
        area.set_gid(gid(level, method, "band"))


def _draw_faint(axes: Axes, members: list[Cell]) -> None:
    kept = [cell.kept_fraction for cell in members]
    axes.plot(kept, [cell.accuracy.mean for cell in members], color=FAINT, linewidth=0.8, alpha=0.55, zorder=1)


def _kept_axis(axes: Axes, kept: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(kept, [f"{100 * share:.4g}" for share in kept])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(kept) / 1.12, max(kept) * 1.12)
    axes.set_xlabel("kept, % of the parameters")
    axes.grid(True)


def _legend(figure: Figure, axes: Axes, level: str | None, shown: Sequence[str], methods: int) -> None:
    from matplotlib.lines import Line2D

    where: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 0.1}
    if level:
        axes.figure.legend(*axes.get_legend_handles_labels(), ncols=min(2, methods), handlelength=3.2, **where)
        return
    handles = [Line2D([], [], color=COLOURS[its], linewidth=2.5, label=its) for its in shown]
    figure.legend(handles=handles, ncols=len(handles), **where)


def _draw_point(axes: Axes, cell: Cell, marker: str) -> None:
    if cell.forward is None:
        return
    colour, y, whole = COLOURS[cell.level], cell.accuracy.mean, (cell.forward.low, cell.forward.high)
    part = f"{cell.kept_fraction:g}"
    whisker = gid(cell.level, cell.method, f"{part} whisker")
    axes.plot(whole, [y, y], color=colour, linewidth=1, alpha=0.45, zorder=2, gid=whisker)
    look: dict[str, Any] = {"markersize": 7, "markeredgecolor": PAPER, "markeredgewidth": 0.7, "zorder": 3}
    axes.plot([cell.forward.estimate], [y], marker, color=colour, gid=gid(cell.level, cell.method, part), **look)


def _name_front(axes: Axes, cells: Sequence[Cell]) -> None:
    last = -1e9
    for cell in front(cells):
        point = (cell.forward_ratio or 0.0, cell.accuracy.mean)
        place = axes.transData.transform(point)[1]
        # A name needs the height of its line, else it would cover the one below.
        if place - last < 12:
            continue
        last = place
        # By definition no point lies above and to the left of the front.
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 8.5, "zorder": 6}
        text = axes.annotate(f"{cell.method} {ratio(cell.forward_ratio)}", point, (-5, 4), **look)
        text.set_gid(gid(cell.level, cell.method, f"{cell.kept_fraction:g} name"))


def _scatter_legend(figure: Figure, axes: Axes, cells: Sequence[Cell], kept: list[float]) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "", "markersize": 7}
    shown = levels(tuple(cells))
    handles = [Line2D([], [], marker="s", color=COLOURS[level], label=level, **look) for level in shown]
    shapes = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], color=INK, label=f"{kept_label(share)} kept", **look)
        for i, share in enumerate(kept)
    ]
    dense = Line2D([], [], marker="*", color=INK, label="dense", **{**look, "markersize": 11})
    where: dict[str, Any] = {"loc": "lower center", "handletextpad": 0.1, "columnspacing": 0.9, "borderaxespad": 0.1}
    figure.legend(handles=handles, ncols=5, bbox_to_anchor=(0.5, 0.045), **where)
    figure.legend(handles=[*shapes, dense], ncols=8, bbox_to_anchor=(0.5, 0.0), **where)
