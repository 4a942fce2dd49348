"""A drawing as a sheet of paper: x to the right and y down, both in points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunus.report.plots.canvas import FAINT, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Sheet:
    """Text, boxes and hatched boxes at exact places of one figure."""

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
        """Write a text; ``y`` is its middle."""
        self.axes.text(x, y, text, **{"fontsize": 8.5, "va": "center", "color": INK, **look})

    def box(self, x: float, y: float, wide: float, high: float, colour: str, **look: Any) -> None:
        """Fill a box whose upper left corner is given."""
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), wide, high, **{"facecolor": colour, "linewidth": 0, **look}))

    def hatched(self, x: float, y: float, wide: float, high: float) -> None:
        """Hatch a box: what was there is gone."""
        self.box(x, y, wide, high, "none", edgecolor=FAINT, hatch="//////", linewidth=0.6)

    def touchable(self, x: float, y: float, wide: float, high: float, gid: str, *, above: int = 0) -> None:
        """Lay something unseen over a box that takes the pointer, for a tip; those further above win."""
        # A wholly transparent patch would be written without a fill, and the pointer would fall through.
        self.box(x, y, wide, high, PAPER, alpha=0.004, gid=gid, zorder=6 + above)


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many letters; its end is kept, for names differ there."""
    return text if len(text) <= most else f"…{text[1 - most :]}"
