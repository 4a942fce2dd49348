"""A sweep as one picture: the loss before recovery and the cost of every kept share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prunus.report.formats import count, kept_label, size
from prunus.report.plots.canvas import COLOURS, DASHES, FAINT, INK, PAPER, axes_at, draw
from prunus.report.plots.sheet import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSS, _WIDE, _HIGH = COLOURS["weight"], 10.2, 4.3
_COSTS = (
    ("parameters", "params", COLOURS["weight"], "o"),
    ("forward MACs", "macs_forward", COLOURS["neuron"], "s"),
    ("bytes", "param_bytes", COLOURS["structure"], "^"),
)


@dataclass(frozen=True, slots=True)
class Swept:
    """One plan of a sweep.

    Attributes:
        kept: the requested share of the metric; 1 is the dense network.
        params, macs_forward, param_bytes: exact; MACs for one sample.
        loss: the loss on the selection split, before any recovery.
    """

    kept: float
    params: int
    macs_forward: int
    param_bytes: int
    loss: float


def best_losses(points: Sequence[Swept]) -> list[Swept]:
    """Return the points whose loss no smaller or equal share beats, smallest first."""
    found: list[Swept] = []
    for point in sorted(points, key=lambda p: (p.kept, p.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found


def sweep_picture(points: Sequence[Swept], dense: Swept, metric: str, title: str) -> str:
    """Draw the loss and the cost of every plan against the kept share, as SVG.

    Left: the loss before recovery; the front is joined by a line, plans that a smaller one beats are hollow. Right: the
        rest of
    parameters, MACs and bytes. A loss that is not finite has no mark.

    Args:
        points: at least one plan.
        dense: the dense network.
        metric: the metric of the shares.
        title: the title of the picture.
    """
    finite = [p for p in points if math.isfinite(p.loss)]

    def paint(figure: Figure) -> None:
        figure.text(0.25 / _WIDE, 1 - 0.3 / _HIGH, shortened(title, 84), fontsize=13, weight="bold", va="center")
        left = axes_at(figure, 0.85, _WIDE / 2 + 0.05, 0.6, 0.75)
        right = axes_at(figure, _WIDE / 2 + 0.75, 0.25, 0.6, 0.75)
        _losses(left, finite, dense)
        _costs(right, points, dense)
        for axes in (left, right):
            _share_axis(axes, [*(p.kept for p in points), 1.0])
            axes.set_xlabel(f"{metric} kept, %")
            axes.grid(True)

    tips = [(f"point-{i}", _tip(p)) for i, p in enumerate(finite)]
    course = ", ".join(f"{p.loss:.3g} at {kept_label(p.kept)}" for p in points)
    alt = f"{title}: loss before recovery {course}; dense {dense.loss:.3g}."
    return draw("sweep", (_WIDE, _HIGH), paint, alt, tips)


def _tip(point: Swept) -> str:
    return (
        f"{kept_label(point.kept)} kept: {point.params:,} parameters, {point.macs_forward:,} MACs, "
        f"{size(point.param_bytes)}, loss {point.loss:.4f} before recovery"
    )


def _losses(axes: Axes, points: Sequence[Swept], dense: Swept) -> None:
    front = best_losses([*points, dense])
    axes.plot([p.kept for p in front], [p.loss for p in front], color=_LOSS, linewidth=1.6, zorder=2)
    look: dict[str, Any] = {"color": _LOSS, "markersize": 7, "markeredgewidth": 1.4, "zorder": 3}
    for i, point in enumerate(points):
        hollow = {"markerfacecolor": PAPER} if point not in front else {"markeredgecolor": PAPER}
        axes.plot([point.kept], [point.loss], "o", gid=f"point-{i}", **{**look, **hollow})
    axes.axhline(dense.loss, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
    axes.plot([1.0], [dense.loss], "*", color=INK, markersize=12, zorder=4)
    _loss_axis(axes, [p.loss for p in (*points, dense)])
    axes.set_title("selection loss before recovery", loc="left", fontsize=10)
    where: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    axes.annotate("dense", (0.0, dense.loss), (4, 4), xycoords=("axes fraction", "data"), **where)
    _label(axes, sorted(points, key=lambda p: (p not in front, -p.kept)), where)


def _label(axes: Axes, points: Sequence[Swept], where: dict[str, Any]) -> None:
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = axes.transData.transform((point.kept, point.loss))
        # A label needs room; where points crowd, only the tips name them.
        if all(abs(x - there[0]) > 62 or abs(y - there[1]) > 12 for there in taken):
            taken.append((x, y))
            text = f"{count(point.params)}, {point.loss:.3g}"
            axes.annotate(text, (point.kept, point.loss), (6, 6), zorder=5, **where)


def _costs(axes: Axes, points: Sequence[Swept], dense: Swept) -> None:
    ordered = sorted([*points, dense], key=lambda p: p.kept)
    kept = [p.kept for p in ordered]
    axes.plot([0, 1], [0, 100], color=FAINT, linewidth=0.8, dashes=(2, 2), zorder=1)
    costs: Sequence[tuple[str, str, str, str]] = _COSTS
    if all(p.param_bytes * dense.params == p.params * dense.param_bytes for p in points):
        # With tensors of one dtype the two lines would coincide.
        costs = (("parameters and bytes", *_COSTS[0][1:]), _COSTS[1])
    for i, (label, field, colour, marker) in enumerate(costs):
        whole = max(getattr(dense, field), 1)
        look: dict[str, Any] = {"marker": marker, "markersize": 6, "markeredgecolor": PAPER, "linewidth": 1.6}
        shares = [100 * getattr(p, field) / whole for p in ordered]
        named = f"{label} ({_whole(field, whole)})"
        axes.plot(kept, shares, color=colour, linestyle=DASHES[i], label=named, zorder=3, **look)
    axes.set_ylim(0, 105)
    axes.set_title("left of the dense network, %", loc="left", fontsize=10)
    axes.legend(loc="best", handlelength=2.8)


def _whole(field: str, amount: int) -> str:
    return size(amount) if field.endswith("bytes") else count(amount)


def _share_axis(axes: Axes, kept: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, 1.06)
    shares = sorted(set(kept))
    crowded = len(shares) > 12 or any(b - a < 0.045 for a, b in pairwise(shares))
    if crowded:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
    else:
        axes.set_xticks(shares, [f"{100 * share:.4g}" for share in shares])


def _loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    """Set a logarithmic axis if the largest loss would flatten all others, with whole ticks and some room."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = min(losses), max(losses)
    if low > 0 and high / low > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(low / 1.35, high * 1.5)
    else:
        margin = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + 1.3 * margin)
