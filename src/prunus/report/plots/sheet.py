"""A figure with the coordinates of a sheet of paper: x to the right and y down, both in points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunus.report.plots.canvas import FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Sheet:
    """Text, boxes and hatched boxes at exact positions of one figure."""

    axes: Axes

    @staticmethod
    def on(figure: Figure, wide: float, high: float) -> Sheet:
        """Lay a sheet of a size in points over a whole figure."""
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, wide)
        axes.set_ylim(high, 0)
        axes.axis("off")
        return Sheet(axes)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        """Write a text, vertically centred at ``y``."""
        self.axes.text(x, y, text, **{"fontsize": 8.5, "va": "center", "color": INK, **look})

    def box(self, x: float, y: float, wide: float, high: float, colour: str, **look: Any) -> None:
        """Fill a box, given by its upper left corner."""
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), wide, high, **{"facecolor": colour, "linewidth": 0, **look}))

    def hatched(self, x: float, y: float, wide: float, high: float) -> None:
        """Hatch a box, which shows a removed part."""
        self.box(x, y, wide, high, "none", edgecolor=FAINT, hatch="//////", linewidth=0.6)

    def touchable(self, x: float, y: float, wide: float, high: float, gid: str, *, above: int = 0) -> None:
        """Put an invisible area with a tip over a box; of several areas the uppermost shows its tip."""
        # A fully transparent patch would be written without a fill, and would not react to the pointer.
        self.box(x, y, wide, high, PAPER, alpha=0.004, gid=gid, zorder=6 + above)


def shortened(text: str, most: int) -> str:
    """Return a text shortened to a number of letters; its end is kept, where names differ."""
    return text if len(text) <= most else f"…{text[1 - most :]}"
