"""The network layer by layer, before and after: narrower, sparse and dropped layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunus.report.formats import kept_label
from prunus.report.plots.canvas import COLOURS, FAINT, INK, axes_at, draw
from prunus.report.results import LayerChange, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LAYERS = 40
"""The largest number of layers in a chart: those with most parameters, in the order of the network."""

_ROW = 0.25


def structure(run: Row) -> str:
    """Draw each layer's kept units and non-zero parameters, as SVG.

    The outline is the dense layer, the pale bar the kept units, the solid bar the parameters that are not zero; a
    hatched bar is a layer that was dropped.

    Args:
        run: one measured network with its layers.
    """
    shown = largest(run.structure)
    names = max((len(_short(layer.name)) for layer in shown), default=4)
    left = 0.25 + 0.085 * names

    def paint(figure: Figure) -> None:
        axes = axes_at(figure, left, 1.0, 0.5, 0.1)
        for y, layer in enumerate(shown):
            _draw_layer(axes, y, layer, COLOURS[run.level])
        axes.set_yticks(range(len(shown)), [_short(layer.name) for layer in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("% of the dense layer")
        axes.grid(True, axis="x")

    dropped = [layer.name for layer in run.structure if layer.dropped]
    alt = (
        f"Layers of {run.method} at {kept_label(run.kept_fraction)} kept: share of units and of non-zero weights left"
        + (f"; dropped: {', '.join(dropped)}." if dropped else "; no layer dropped.")
    )
    return draw(f"structure-{run.level}", (4.6, 0.6 + _ROW * len(shown)), paint, alt)


def largest(layers: tuple[LayerChange, ...]) -> tuple[LayerChange, ...]:
    """Return at most ``MOST_LAYERS`` layers: those with most parameters, in the order of the network."""
    if len(layers) <= MOST_LAYERS:
        return layers
    chosen = sorted(range(len(layers)), key=lambda i: -layers[i].params_before)[:MOST_LAYERS]
    return tuple(layers[i] for i in sorted(chosen))


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _draw_layer(axes: Axes, y: int, layer: LayerChange, colour: str) -> None:
    if layer.dropped:
        axes.barh(y, 100, height=0.7, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0.8)
        text = "dropped"
    else:
        units = 100 * layer.units_after / max(layer.units_before, 1)
        weights = 100 * layer.nonzero_after / max(layer.params_before, 1)
        axes.barh(y, 100, height=0.7, facecolor="none", edgecolor=FAINT, linewidth=0.8)
        axes.barh(y, units, height=0.7, color=colour, alpha=0.28, linewidth=0)
        axes.barh(y, weights, height=0.3, color=colour, linewidth=0)
        narrower = layer.units_after != layer.units_before
        text = f"{layer.units_before}→{layer.units_after}" if narrower else str(layer.units_before)
    axes.annotate(
        text, (1.0, y), (5, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=8.5, color=INK
    )
