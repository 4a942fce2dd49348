"""A chart of a page as its own SVG file: fixed colours on white, for any viewer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from prunus.foundation.atomic_files import write_text_atomic
from prunus.report.plots.canvas import INK

_VARIABLE = re.compile(r"var\(--[a-z-]+, (#[0-9a-f]{6})\)")


def standalone(svg: str) -> str:
    """Return a chart of `prunus.report.plots` as a document: without style-sheet variables, on white, with a title.

    Many viewers support neither CSS variables nor the theme of a page.
    """
    svg = _VARIABLE.sub(r"\1", svg).replace("currentColor", INK)
    head, rest = svg.split(">", 1)
    label = re.search(r'aria-label="([^"]*)"', head)
    title = f"<title>{label[1]}</title>" if label else ""
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}>\n {title}{ground}{rest}'


def write_picture(path: Path, make: Callable[[], str]) -> str | None:
    """Write the drawing of ``make`` at once or not at all; return a line with the reason if it cannot be drawn.

    Args:
        path: the SVG file.
        make: a function that draws a chart of the page.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return f"no picture {path.name}: it needs matplotlib; pip install 'prunus[report]'"
    write_text_atomic(path, standalone(make()))
    return None
