"""An accuracy axis that separates 97 from 98 % even if another method falls to 20 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 1.0)
# Added to the error, so that 100 % has a finite position on the stretched axis.
_FLOOR = 0.004


def is_stretched(values: Sequence[float]) -> bool:
    """Return whether most of the values would lie in the top quarter of a straight axis."""
    low, high = min(values), max(values)
    middle = sorted(values)[len(values) // 2]
    return high - low > 0.05 and (middle - low) / (high - low) > 0.75


def accuracy_axis(axes: Axes, values: Sequence[float], *, vertical: bool = True, stretched: bool | None = None) -> bool:
    """Fit an axis to accuracies, stretched towards 100 % if most of them lie there.

    Stretched: position = −log(1 − accuracy + 0.004), so that equal steps are equal factors of the error.

    Args:
        axes: the axes to fit.
        values: every accuracy drawn, as shares in 0..1.
        vertical: fit the y axis, not the x axis.
        stretched: force one of the scales; by default it follows from the values.

    Returns:
        True if the axis is stretched, for the caption.
    """
    stretched = is_stretched(values) if stretched is None else stretched
    low, high = min(values), max(values)
    if stretched:
        low, high = _value(_place(low) - 0.15), min(1.0, _value(_place(high) + 0.15))
    else:
        margin = max(0.004, 0.06 * (high - low))
        low, high = max(-0.01, low - margin), min(1.01, high + margin)
    low = max(low, -0.02)
    set_scale, set_limits = (axes.set_yscale, axes.set_ylim) if vertical else (axes.set_xscale, axes.set_xlim)
    if stretched:
        set_scale("function", functions=(_places, _values))
        _set_ticks(axes, low, high, vertical)
    else:
        axis: Any = axes.yaxis if vertical else axes.xaxis
        axis.set_major_locator(_locator())
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}")
    set_limits(low, high)
    return stretched


def _set_ticks(axes: Axes, low: float, high: float, vertical: bool) -> None:
    span = _place(high) - _place(low)
    ticks: list[float] = []
    for tick in _TICKS:
        if low <= tick <= high and (not ticks or _place(tick) - _place(ticks[-1]) > span / 14):
            ticks.append(tick)
    axis: Any = axes.yaxis if vertical else axes.xaxis
    axis.set_ticks(ticks, [f"{100 * tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7, steps=[1, 2, 5, 10])


def _place(accuracy: float) -> float:
    return -math.log(max(1.0 - accuracy, 0.0) + _FLOOR)


def _value(place: float) -> float:
    return 1.0 + _FLOOR - math.exp(-place)


def _places(values: Any) -> Any:
    import numpy

    return -numpy.log(numpy.maximum(1.0 - numpy.asarray(values, dtype=float), 0.0) + _FLOOR)


def _values(places: Any) -> Any:
    import numpy

    return 1.0 + _FLOOR - numpy.exp(-numpy.asarray(places, dtype=float))
