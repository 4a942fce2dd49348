"""The results of a comparison as a table on the console, with findings below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prunus.report.columns import Column, columns_of
from prunus.report.findings import find
from prunus.report.formats import kept_label
from prunus.report.results import Results
from prunus.report.seed_averages import Cell, at, dense_cell, kept_fractions, levels, make_cells

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {"weight": "blue", "neuron": "red", "structure": "green", "hierarchical": "magenta", "baseline": "dim"}
_TOPICS = ("best", "pay")


def print_table(results: Results, console: Console | None = None) -> None:
    """Print the results of a comparison, grouped by kept fraction and level, with the findings in words below.

    A terminal gets colours, and as many columns as fit its width; anything else gets plain text with every
    column.

    Args:
        results: the results of a comparison.
        console: the console to print on; by default the standard output.

    Units: before, after, F1 and worst in percent; time as a ratio to dense with its 95 % interval; s in seconds.
    """
    from rich.console import Console

    console = console or Console()
    cells = make_cells(results)
    columns = shown = columns_of((dense_cell(results), *cells))
    if console.is_terminal:
        shown = _fitting(results, cells, columns, console)
        console.print(_rich_table(results, cells, shown))
    else:
        for line in _plain_lines(results, cells, columns):
            console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
    hidden = [column.head for column in columns if column not in shown]
    for line in _footnotes(results, hidden):
        # In a pipe each sentence is one line; a terminal wraps it between words.
        console.print(line, soft_wrap=not console.is_terminal, markup=False, highlight=False, emoji=False)


def _groups(cells: tuple[Cell, ...]) -> Iterator[tuple[float, str, list[Cell]]]:
    for kept in kept_fractions(cells):
        here = at(cells, kept)
        for level in levels(cells):
            if members := [cell for cell in here if cell.level == level]:
                yield kept, level, members


def _title(results: Results) -> str:
    seeds = len(results.seeds)
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else f"seed {results.seeds[0]}"
    return f"{results.title}: {results.model} on {results.workload}, {spread}"


def _fitting(
    results: Results, cells: tuple[Cell, ...], columns: tuple[Column, ...], console: Console
) -> tuple[Column, ...]:
    shown = list(columns)
    # Measured on a very wide console, for a narrow one would limit the result.
    endless = console.options.update(width=10_000)
    while console.measure(_rich_table(results, cells, tuple(shown)), options=endless).maximum > console.width:
        droppable = [column for column in shown if column.rank]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda column: column.rank))
    return tuple(shown)


def _plain_lines(results: Results, cells: tuple[Cell, ...], columns: tuple[Column, ...]) -> Iterator[str]:
    everything = (*cells, dense_cell(results))
    name_width = max(len(cell.method) for cell in everything)
    widths = {column.key: max(len(column.head), *(len(column.text(c)) for c in everything)) for column in columns}

    def line(name: str, texts: list[str]) -> str:
        padded = [text.rjust(widths[column.key]) for column, text in zip(columns, texts, strict=True)]
        return " ".join([name.ljust(name_width), *padded]).rstrip()

    yield _title(results)
    yield ""
    yield line("method", [column.head for column in columns])
    yield line("dense", [column.text(dense_cell(results)) for column in columns])
    for kept, level, members in _groups(cells):
        yield f"-- {kept_label(kept)} kept, {level}"
        for cell in members:
            yield line(cell.method, [column.text(cell) for column in columns])


def _rich_table(results: Results, cells: tuple[Cell, ...], shown: tuple[Column, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_title(results), style="bold"), box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("kept, method", no_wrap=True)
    for column in shown:
        table.add_column(column.head, justify="right", no_wrap=True)
    table.add_row("dense", *(column.text(dense_cell(results)) for column in shown), style="bold", end_section=True)
    for kept, level, members in _groups(cells):
        table.add_row(Text(f"{kept_label(kept)} {level}", style="bold"))
        for last, cell in zip([*[False] * (len(members) - 1), True], members, strict=True):
            texts = [column.text(cell) for column in shown]
            table.add_row(Text(cell.method), *texts, style=_COLOURS[level], end_section=last)
    return table


def _footnotes(results: Results, hidden: list[str]) -> Iterator[str]:
    yield ""
    yield from (finding.text for finding in find(results) if finding.topic in _TOPICS)
    for skipped in results.skipped:
        yield f"Skipped: {skipped.method} at {kept_label(skipped.kept_fraction)} kept: {skipped.reason}"
    if hidden:
        yield f"Not shown at this width: {', '.join(hidden)}."
    yield "Time is pruned ÷ dense with its 95 % interval (below 1 is faster); the report defines the other columns."
