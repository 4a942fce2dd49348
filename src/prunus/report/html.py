"""A comparison as one HTML page that needs no network."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.errors import UsageError
from prunus.foundation.atomic_files import write_text_atomic
from prunus.report import formats
from prunus.report.columns import columns_of
from prunus.report.findings import find
from prunus.report.results import Results, Row
from prunus.report.results.frontier import RULES
from prunus.report.seed_averages import Cell, at, dense_cell, kept_fractions, levels, make_cells

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent / "page"


@dataclass(frozen=True, slots=True)
class Panel:
    """One SVG of a figure, and the level or kept fraction to which it belongs."""

    key: str
    svg: str


def write_report(results: Results, path: Path) -> None:
    """Write the page at once or not at all.

    Args:
        results: the results of a comparison.
        path: the HTML file to write.

    Raises:
        UsageError: the packages of the extra ``report`` are not installed.
    """
    write_text_atomic(path, render_report(results))


def render_report(results: Results) -> str:
    """Return the page: findings, charts, a sortable table, definitions, environment and recipe.

    Style, script and drawings are inside the page, and its content security policy forbids any request.

    Args:
        results: the results of a comparison.

    Raises:
        UsageError: the packages of the extra ``report`` are not installed.
    """
    return page_environment().get_template("report.html.j2").render(_content(results))


def page_environment() -> Environment:
    """Return the templates of all pages, with the filters that they use.

    Raises:
        UsageError: the packages of the extra ``report`` are not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise UsageError(
            f"The report needs {error.name}, which is not installed; pip install 'prunus[report]'."
        ) from None

    pages = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals["source"] = lambda name: Markup((_FOLDER / name).read_text(encoding="utf-8"))
    pages.filters["svg"] = lambda panel: Markup(_inline(panel.svg))
    pages.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    pages.filters["kept"] = formats.kept_label
    return pages


def _content(results: Results) -> dict[str, Any]:
    cells = make_cells(results)
    return {
        "results": results,
        "columns": columns_of((dense_cell(results), *cells)),
        "cells": cells,
        "dense": dense_cell(results),
        "levels": levels(cells),
        "kept": kept_fractions(cells),
        "shown_kept": _middle(kept_fractions(cells)),
        "findings": find(results),
        "tiles": _tiles(results, cells),
        "charts": _charts(results, cells),
        "chosen": _chosen(results, cells),
        "notes": _notes(results),
        "rules": RULES,
    }


def _middle(kept: list[float]) -> float | None:
    return kept[len(kept) // 2] if kept else None


def _charts(results: Results, cells: tuple[Cell, ...]) -> dict[str, list[Panel]]:
    from prunus.report import plots
    from prunus.report.frontier_picture import frontier_picture

    if not cells:
        return {}
    kept = kept_fractions(cells)
    charts = {
        "overview": [Panel("all", plots.tradeoff(results))],
        "tradeoff": [Panel(level, plots.tradeoff(results, level)) for level in levels(cells)],
        "bars": [Panel(f"{share:g}", svg) for share in kept for svg in plots.cost_bars(results, share)],
        "stability": [Panel(f"{share:g}", plots.stability(results, share)) for share in kept],
        "structure": [Panel(row.level, plots.structure(row)) for row in _chosen(results, cells)],
    }
    if results.frontier is not None:
        charts["frontier"] = [Panel("all", frontier_picture(results.frontier))]
    if any(cell.forward_ratio is not None for cell in cells):
        charts["latency"] = [Panel("all", plots.latency_scatter(results))]
    return charts


def _chosen(results: Results, cells: tuple[Cell, ...]) -> list[Row]:
    """Return one run per level: its most accurate method at the middle kept fraction, with the first seed."""
    middle = _middle(kept_fractions(cells))
    chosen = []
    for level in levels(cells):
        rivals = [cell for cell in at(cells, middle or 0.0) if cell.level == level]
        for cell in sorted(rivals, key=lambda item: -item.accuracy.mean):
            rows = [row for row in results.runs if (row.method, row.kept_fraction) == (cell.method, middle)]
            if level != "baseline" and rows[0].structure:
                chosen.append(rows[0])
                break
    return chosen


def _tiles(results: Results, cells: tuple[Cell, ...]) -> list[tuple[str, str, str]]:
    """Return (number, its name, its method) for the head of the page."""
    dense = dense_cell(results)
    tiles = [
        (f"{formats.percent(dense.accuracy.mean)} %", "dense accuracy", f"{formats.count(dense.params)} parameters")
    ]
    for kept in kept_fractions(cells):
        rivals = [cell for cell in at(cells, kept) if cell.level != "baseline"]
        if rivals:
            best = max(rivals, key=lambda cell: cell.accuracy.mean)
            time = best.method + (f", at {formats.ratio(best.forward_ratio)} of the time" if best.forward_ratio else "")
            tiles.append((f"{formats.percent(best.accuracy.mean)} %", f"best at {formats.kept_label(kept)} kept", time))
    return tiles


def _notes(results: Results) -> list[tuple[str, str]]:
    """Return (run, note) for every note of a run, each once."""
    rows = (*results.dense_runs, *results.runs)
    found = {(f"{row.method} at {formats.kept_label(row.kept_fraction)}", note) for row in rows for note in row.notes}
    return sorted(found)


def _inline(svg: str) -> str:
    # An HTML parser knows SVG's namespaces; without them the page contains no address.
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
