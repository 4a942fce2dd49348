"""The common figure of all charts: its style, and its conversion to SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, PAPER, FAINT = "#0a0b0c", "#d0d1d2", "#fdfcfb", "#a0a1a2"

# Okabe and Ito's palette: distinct under every common colour blindness, and in print by the markers.
COLOURS = {
    "weight": "#0072b2",
    "neuron": "#d55e00",
    "structure": "#009e73",
    "hierarchical": "#cc79a7",
    "baseline": "#7b7c7d",
    "dense": INK,
}
MARKERS = "osD^vPX*<>hd"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

# Each is drawn in its own colour, which the page's style sheet sets by name.
_VARIABLES = {
    INK: "currentColor",
    GRID: "var(--grid, #d0d1d2)",
    PAPER: "var(--paper, #ffffff)",
    FAINT: "var(--faint, #a0a1a2)",
    **{colour: f"var(--level-{level}, {colour})" for level, colour in COLOURS.items() if level != "dense"},
}
_RC: Any = {
    "svg.fonttype": "none",
    # A dollar sign in a name must not begin a formula.
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(
    name: str,
    size: tuple[float, float],
    paint: Callable[[Figure], None],
    alt: str,
    tips: Iterable[tuple[str, str]] = (),
) -> str:
    """Return the SVG of a figure that ``paint`` fills.

    The same input gives the same text, byte for byte: ids are hashed with a fixed salt and contain no date. Every id
    starts with ``name``, so several charts can share one page.

    Args:
        name: unique within a page; letters, digits and dashes.
        size: width and height in inches (72 SVG units each).
        paint: adds axes and artists to the empty figure.
        alt: a description of the chart, for people who do not see it.
        tips: (gid of an artist, text shown when the pointer rests on it).
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        # The person's own matplotlibrc must not change the charts.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_RC, "svg.hashsalt": f"prunus-{name}"})
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0.0)
        FigureCanvasSVG(figure)
        paint(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0.0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _finish(buffer.getvalue(), name, alt, tips)


def _finish(svg: str, name: str, alt: str, tips: Iterable[tuple[str, str]]) -> str:
    svg = svg[svg.index("<svg") :]
    for gid, text in tips:
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(text)}</title>', 1)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # A style sheet can hide one level in every chart by this class.
    svg = re.sub(rf'(<g id="{name}-lv-([a-z]+)-[^"]*")', r'\1 class="lv lv-\2"', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("'DejaVu Sans', ", "").replace("'Bitstream Vera Sans', ", "")
    label = f'<svg role="img" aria-label="{escape(alt)}" '
    return label + svg.removeprefix("<svg ").rstrip() + "\n"


def gid(level: str, method: str, part: str = "") -> str:
    """Return the id of one method's artist, by which the page finds, hides and explains it."""
    return "lv-" + re.sub(r"[^A-Za-z0-9]+", "-", f"{level} {method} {part}").strip("-")


def axes_at(figure: Figure, left: float, right: float, bottom: float, top: float) -> Axes:
    """Add axes with margins in inches, which leave room for text in figures of any size."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
