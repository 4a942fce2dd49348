"""The page's picture: what each network loses, beside Torch-Pruning's best; and what each rung of the ladder gains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunus.report.plots.canvas import COLOURS, GRID, INK, MARKERS

from .ours import RUNGS
from .page import Rows, best_peer, cells, interval, ladder_nets, of_rung, of_seeds

NAME = "oneshot.svg"
LEAST = 0.1
"""Points below which a loss is drawn at the edge: it is within what the test split can tell."""
_THEIRS = COLOURS["baseline"]
_OURS = COLOURS["weight"]


def draw(rows: Rows, folder: Path) -> None:
    """Write the picture beside the page; both axes of points are logarithmic."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "prunus", "font.size": 9})
    figure = Figure(figsize=(11, 4.6), facecolor="white", layout="constrained")
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    _beside(left, rows)
    _steps(right, rows)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks([0.1, 0.3, 1, 3, 10, 30, 100], ["≤ 0.1", "0.3", "1", "3", "10", "30", "100"])
        axes.set_xticks([], minor=True)
        axes.set_xlim(LEAST * 0.9, 110)
        axes.grid(True, axis="x", color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("points of accuracy lost, before any training on labels", fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / NAME, metadata={"Date": None, "Creator": None})


def _beside(axes: Any, rows: Rows) -> None:
    named = sorted(cells(rows), key=lambda cell: -cell[1])
    for place, (net, kept) in enumerate(named):
        mean, low, high = (_points(x) for x in interval(of_seeds(rows, f"cells/{net}/{kept:g}", "ours")))
        axes.plot([low, high], [place, place], color=_OURS, linewidth=1.2)
        axes.plot(mean, place, "o", color=_OURS, ms=6, label="prunus, 95 % interval" if not place else None)
        best = best_peer(rows, net, kept)
        if best is not None:
            theirs = _points(interval(best[1])[0])
            axes.plot([mean, theirs], [place, place], color=GRID, linewidth=1, zorder=0)
            axes.plot(theirs, place, "s", color=_THEIRS, ms=6, label="" if place else "Torch-Pruning's best of 12")
    axes.set_yticks(range(len(named)), [f"{net.removeprefix('glyphs/')}, {kept:.0%}" for net, kept in named])
    axes.set_ylabel("network, kept MACs")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes.invert_yaxis()


def _steps(axes: Any, rows: Rows) -> None:
    colours = [COLOURS["weight"], COLOURS["neuron"], COLOURS["structure"]]
    for number, net in enumerate(ladder_nets(rows)):
        found = [(place, of_rung(rows, net, place)) for place in range(len(RUNGS))]
        lost = [(place, _points(interval(rung)[0])) for place, rung in found if rung]
        name, _, kept = net.removeprefix("glyphs/").partition("/")
        axes.plot(
            [x for _, x in lost],
            [y for y, _ in lost],
            marker=MARKERS[number],
            color=colours[number % 3],
            ms=5,
            label=f"{name}, {float(kept):.0%}",
        )
    axes.set_yticks(range(len(RUNGS)), [_in_two_lines(rung) for rung in RUNGS], color=INK)
    axes.legend(frameon=False, loc="upper left")
    axes.invert_yaxis()


def _points(lost: float) -> float:
    return max(LEAST, 100 * lost)


def _in_two_lines(rung: str) -> str:
    start, _, end = rung.rpartition(", ")
    return f"{start},\n{end}"
