"""A chart of the page as a file of its own: fixed colours on white, readable by any viewer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from prunus.foundation.atomic_files import write_text_atomic
from prunus.report.plots.canvas import INK

_VARIABLE = re.compile(r"var\(--[a-z-]+, (#[0-9a-f]{6})\)")


def standalone(svg: str) -> str:
    """Return a chart of `prunus.report.plots` as a document: no variables of a style sheet, a white ground, a title.

    Many viewers know neither CSS variables nor the theme of a page.
    """
    svg = _VARIABLE.sub(r"\1", svg).replace("currentColor", INK)
    head, rest = svg.split(">", 1)
    label = re.search(r'aria-label="([^"]*)"', head)
    title = f"<title>{label[1]}</title>" if label else ""
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}>\n {title}{ground}{rest}'


def write_picture(path: Path, make: Callable[[], str]) -> str | None:
    """Write what ``make`` draws at once or not at all; return a line that says why where it cannot be drawn.

    Args:
        path: the SVG file.
        make: draws a chart of the page.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return f"no picture {path.name}: it needs matplotlib; pip install 'prunus[report]'"
    write_text_atomic(path, standalone(make()))
    return None
