"""The columns of the table of results: one list for the console, the page and the definitions under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prunus.report import formats
from prunus.report.seed_averages import Cell


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, the functions that write and sort a cell, and its definition.

    A narrow terminal drops the columns with the greatest ``rank`` first, those with rank 0 never.
    """

    key: str
    head: str
    meaning: str
    text: Callable[[Cell], str]
    value: Callable[[Cell], float | None]
    rank: int


COLUMNS: tuple[Column, ...] = (
    Column(
        "repair",
        "repair",
        "What refitted the weights that stayed, on unlabelled samples, between the cut and the column `before`.",
        lambda c: formats.ABSENT if c.repair == "none" else c.repair,
        lambda c: None,
        3,
    ),
    Column(
        "before",
        "before",
        "Test accuracy in percent right after pruning, before any recovery training.",
        lambda c: formats.percent(c.before),
        lambda c: c.before,
        1,
    ),
    Column(
        "accuracy",
        "after",
        "Test accuracy in percent after the recovery training, which is the same for all methods.",
        lambda c: formats.percent_spread(c.accuracy, c.n),
        lambda c: c.accuracy.mean,
        0,
    ),
    Column(
        "f1_macro",
        "F1",
        "Macro F1 in percent: the harmonic mean of precision and recall, averaged over classes.",
        lambda c: formats.percent(c.f1_macro.mean),
        lambda c: c.f1_macro.mean,
        6,
    ),
    Column(
        "auc",
        "AUC",
        "Area under the ROC curve in percent, of the second of two classes: how often it is ranked above the first.",
        lambda c: formats.percent(c.auc),
        lambda c: c.auc,
        2,
    ),
    Column(
        "bits",
        "bits",
        "Bits that the network needs for one target, where each sample has many, such as the next bytes of a text.",
        lambda c: formats.ABSENT if c.bits is None else f"{c.bits:.3f}",
        lambda c: c.bits,
        1,
    ),
    Column(
        "worst_class",
        "worst",
        "The lowest recall of any single class, in percent: what the unluckiest class gets.",
        lambda c: formats.percent_spread(c.worst_class, c.n),
        lambda c: c.worst_class.mean,
        3,
    ),
    Column(
        "params",
        "params",
        "Parameters that the network stores as dense tensors, zeros included.",
        lambda c: formats.count(c.params),
        lambda c: c.params,
        7,
    ),
    Column(
        "nonzero",
        "nonzero",
        "Parameters that are not zero; this is what the kept fraction limits.",
        lambda c: formats.count(c.nonzero),
        lambda c: c.nonzero,
        2,
    ),
    Column(
        "macs_forward",
        "MACs",
        "Multiply-accumulates of one forward pass for one sample (1 MAC = 2 FLOP).",
        lambda c: formats.count(c.macs_forward),
        lambda c: c.macs_forward,
        4,
    ),
    Column(
        "size_bytes",
        "size",
        "Bytes of the saved file.",
        lambda c: formats.size(c.size_bytes),
        lambda c: c.size_bytes,
        5,
    ),
    Column(
        "forward_ratio",
        "time fwd",
        "Forward time divided by the dense forward time (below 1 is faster), with its 95 % interval; "
        "with several seeds the mean, and the range that the intervals span.",
        lambda c: formats.ratio_interval(c.forward),
        lambda c: c.forward_ratio,
        0,
    ),
    Column(
        "backward_ratio",
        "time bwd",
        "The same for the backward pass.",
        lambda c: formats.ratio_interval(c.backward),
        lambda c: c.backward_ratio,
        8,
    ),
    Column(
        "seconds",
        "s",
        "Wall-clock seconds that the method took: scoring, pruning, checking and recovery.",
        lambda c: formats.seconds(c.seconds),
        lambda c: c.seconds,
        9,
    ),
)


_WHERE_KNOWN = ("auc", "bits", "repair")  # only some tasks or runs have them


def columns_of(cells: Iterable[Cell]) -> tuple[Column, ...]:
    """Return the columns for these cells, without measures that no cell has."""
    shown = list(cells)
    return tuple(
        column
        for column in COLUMNS
        if column.key not in _WHERE_KNOWN or any(column.text(cell) != formats.ABSENT for cell in shown)
    )
