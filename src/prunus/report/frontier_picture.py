"""A frontier as one picture: accuracy over minutes of training, with the knee marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunus.report.formats import percent
from prunus.report.plots.canvas import COLOURS, FAINT, INK, PAPER, axes_at, draw
from prunus.report.plots.scale import accuracy_axis
from prunus.report.results.frontier import Frontier, TrainingPoint, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE, _KNEE = COLOURS["neuron"], COLOURS["structure"]


def frontier_picture(frontier: Frontier) -> str:
    """Draw accuracy on the selection split over the minutes of training, as SVG.

    The line joins the points that no cheaper one reaches; others are hollow. A whisker is the 95 % interval of the
    distance to the most accurate point. The ring and the dashed line mark the knee, crosses the test split.
    """
    points, front = frontier.points, front_of(frontier.points)
    tests = [p.test_accuracy for p in points if p.test_accuracy is not None]
    values = [*(p.accuracy for p in points), *tests]

    def paint(figure: Figure) -> None:
        axes = axes_at(figure, 0.72, 0.2, 0.85, 0.22)
        axes.plot([points[i].minutes for i in front], [points[i].accuracy for i in front], color=_LINE, linewidth=1.6)
        for number, point in enumerate(points):
            _draw_point(axes, frontier, number, point, hollow=number not in front)
        _mark_knee(axes, frontier)
        accuracy_axis(axes, values, stretched=False)
        most = max(p.minutes for p in points) or 1.0
        axes.set_xlim(-0.04 * most, 1.08 * most)
        axes.set_xlabel("minutes of training")
        axes.set_ylabel("accuracy, %")
        axes.grid(True)
        _legend(figure, bool(tests))

    tips = [(f"training-{number}", _tip(frontier, point)) for number, point in enumerate(points)]
    course = ", ".join(f"{percent(p.accuracy)} % after {p.minutes:.2g} minutes" for p in points)
    knee = f"{frontier.chosen.amount:g} {frontier.unit}"
    return draw(
        "frontier", (6.2, 4.1), paint, f"Accuracy over minutes of training: {course}; the knee is {knee}.", tips
    )


def _draw_point(axes: Axes, frontier: Frontier, number: int, point: TrainingPoint, *, hollow: bool) -> None:
    best = frontier.points[frontier.best].accuracy
    low, high = best - point.behind_interval[1], best - point.behind_interval[0]
    axes.plot([point.minutes] * 2, [low, high], color=_LINE, linewidth=1, alpha=0.45, zorder=2)
    if point.test_accuracy is not None:
        axes.plot([point.minutes], [point.test_accuracy], "x", color=FAINT, markersize=6, zorder=2)
    look: dict[str, Any] = {"markersize": 7, "color": _LINE, "markeredgewidth": 1.3, "zorder": 4}
    look |= {"markerfacecolor": PAPER} if hollow else {"markeredgecolor": PAPER}
    axes.plot([point.minutes], [point.accuracy], "o", gid=f"training-{number}", **look)


def _mark_knee(axes: Axes, frontier: Frontier) -> None:
    knee = frontier.chosen
    axes.axvline(knee.minutes, color=_KNEE, linewidth=1, dashes=(4, 3), zorder=1)
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 2, "zorder": 5}
    axes.plot([knee.minutes], [knee.accuracy], "o", color=_KNEE, markersize=14, gid="knee", **ring)
    text = f"knee: {knee.amount:g} {frontier.unit}, {percent(knee.accuracy)} %"
    axes.annotate(text, (knee.minutes, knee.accuracy), (10, -16), textcoords="offset points", color=INK, zorder=6)


def _legend(figure: Figure, tested: bool) -> None:
    from matplotlib.lines import Line2D

    none: dict[str, Any] = {"linestyle": ""}
    handles = [
        Line2D([], [], marker="o", color=_LINE, markersize=7, label="selection split (decides)"),
        Line2D([], [], marker="o", color=_KNEE, markerfacecolor="none", markersize=10, label="knee", **none),
    ]
    if tested:
        handles.append(Line2D([], [], marker="x", color=FAINT, label="test split (reported)", **none))
    figure.legend(handles=handles, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.0), borderaxespad=0.1)


def _tip(frontier: Frontier, point: TrainingPoint) -> str:
    low, high = point.behind_interval
    return (
        f"{point.amount:g} {frontier.unit}: {percent(point.accuracy)} % after {point.minutes:.3g} minutes, "
        f"{percent(point.behind)} points behind the best ({percent(low)} to {percent(high)})"
    )
