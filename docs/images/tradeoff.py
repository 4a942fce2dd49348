"""Draw docs/images/tradeoff.svg and print the README's table: ``python docs/images/tradeoff.py RESULTS.json``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prunus.report.plots.canvas import COLOURS, DASHES, GRID, INK, MARKERS
from prunus.report.plots.scale import accuracy_axis
from prunus.report.results import Results, Summary

ROWS = (
    "absolute-threshold",
    "importance",
    "window-kernel",
    "alps",
    "sensitivity",
    "magnitude",
    "obs-units",
    "key-path",
    "layer-wise",
    "multi-scale",
    "random",
    "smaller-dense",
)
LINE = 0.036
"""The height of a label, as a share of the axis."""


def curves(results: Results) -> dict[tuple[str, str], list[Summary]]:
    """Return (level, method) → its summaries, the largest kept fraction first."""
    found: dict[tuple[str, str], list[Summary]] = {}
    for cell in sorted(results.summary, key=lambda s: -s.kept_fraction):
        found.setdefault((cell.level, cell.method), []).append(cell)
    return found


def draw(results: Results, path: Path) -> None:
    """Draw one line a method, labelled at its end."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.hashsalt": "prunus", "font.size": 10})
    figure = Figure(figsize=(8.2, 5.2), facecolor="white")
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.08, 0.1, 0.66, 0.87))
    dense, places, ends = results.dense_runs[0].accuracy, dict[str, int](), list[tuple[float, str, str]]()
    axes.axhline(dense, color=INK, linewidth=1, dashes=(4, 3))
    for (level, method), cells in curves(results).items():
        place = places[level] = places.get(level, -1) + 1
        x, y = [c.kept_fraction for c in cells], [c.accuracy.mean for c in cells]
        axes.plot(x, y, color=COLOURS[level], linestyle=DASHES[place % len(DASHES)], marker=MARKERS[place], ms=5)
        if x[-1] == min(s.kept_fraction for s in results.summary):
            ends.append((y[-1], method, COLOURS[level]))
    axes.set_xscale("log")
    kept = sorted({s.kept_fraction for s in results.summary}, reverse=True)
    axes.set_xticks(kept, [f"{share:.0%}" for share in kept])
    axes.set_xticks([], minor=True)
    axes.set_xlim(max(kept) * 1.08, min(kept) / 1.05)
    axes.set_xlabel("kept parameters (zeros do not count)")
    axes.set_ylabel("test accuracy after recovery, %")
    accuracy_axis(axes, [s.accuracy.mean for s in results.summary] + [dense])
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    label(axes, [(dense, "dense", INK), *ends])
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def label(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, pushed down where names would overlap."""
    last = 2.0
    for value, name, colour in sorted(ends, key=lambda end: (-end[0], end[1])):
        at = axes.transAxes.inverted().transform(axes.transData.transform((0.1, value)))[1]
        last = min(at, last - LINE)
        axes.text(1.02, last, f"{name}  {100 * value:.1f}", transform=axes.transAxes, color=colour, va="center", size=9)


def table(results: Results) -> str:
    """Return the README's rows in Markdown."""
    runs = {(r.method, r.kept_fraction): r for r in results.runs if r.seed == results.seeds[0]}
    kept = sorted({r.kept_fraction for r in results.runs}, reverse=True)
    dense = results.dense_runs[0]
    rows = [("dense", "dense", [f"{dense.accuracy:.1%}"] * len(kept), dense)]
    for name in ROWS:
        found = [runs[name, share] for share in kept]
        rows.append((name, found[0].level, [f"{run.accuracy:.1%}" for run in found], found[-1]))
    return "\n".join(
        f"| `{name}` | {level} | {' | '.join(accuracy)} | {last.params:,} | {last.macs_forward:,} "
        f"| {last.size_bytes:,} |"
        for name, level, accuracy, last in rows
    )


if __name__ == "__main__":
    found = Results.load(Path(sys.argv[1]))
    draw(found, Path(__file__).with_name("tradeoff.svg"))
    sys.stdout.write(table(found) + "\n")
