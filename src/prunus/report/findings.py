"""Findings in words: the methods that keep accuracy, those that gain time, and differences that are only noise."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.report.formats import kept_label, listed, percent, points, ratio
from prunus.report.results import Results
from prunus.report.seed_averages import Cell, at, dense_cell, kept_fractions, make_cells

TOLERANCE = 0.01
"""The largest loss of accuracy, as a share, that counts as small."""

CHECK_LIMIT = 1e-4
"""The relative error up to which the cut network counts as equal to the masked one."""

_LIMIT = f"{100 * TOLERANCE:g} point"
# Two accuracies that print alike count as equal.
_SAME = 0.0005


@dataclass(frozen=True, slots=True)
class Finding:
    """One or two sentences, and their topic: best, pay, baseline, stability or check."""

    topic: str
    text: str


def find(results: Results) -> tuple[Finding, ...]:
    """Return every finding that the numbers support, most important first."""
    cells, dense = make_cells(results), dense_cell(results)
    lines = [*_best(cells, dense), *_pay(cells, dense), *_baselines(cells), *_stability(cells, dense), *_check(results)]
    return tuple(lines)


def _pruned(cells: list[Cell] | tuple[Cell, ...]) -> list[Cell]:
    return [cell for cell in cells if cell.level != "baseline"]


def _best(cells: tuple[Cell, ...], dense: Cell) -> list[Finding]:
    found = []
    for kept in kept_fractions(cells):
        rivals = _pruned(at(cells, kept))
        if not rivals:
            continue
        top = max(cell.accuracy.mean for cell in rivals)
        winners = [cell for cell in rivals if top - cell.accuracy.mean < _SAME]
        verb = "keeps" if len(winners) == 1 else "keep"
        text = (
            f"At {kept_label(kept)} kept, {listed([cell.method for cell in winners])} {verb} the most accuracy: "
            f"{percent(top)} % ({points(top - dense.accuracy.mean)} against dense {percent(dense.accuracy.mean)} %)"
        )
        text += _timing_note(winners[0]) if len(winners) == 1 else ""
        found.append(Finding("best", f"{text}."))
    return found


def _timing_note(cell: Cell) -> str:
    if cell.forward_ratio is None:
        return ""
    return f", at {_time(cell)} of the dense forward time"


def _pay(cells: tuple[Cell, ...], dense: Cell) -> list[Finding]:
    timed = [cell for cell in _pruned(cells) if cell.forward is not None]
    if not timed:
        return []
    good = [cell for cell in timed if dense.accuracy.mean - cell.accuracy.mean <= TOLERANCE]
    quick = [cell for cell in good if cell.faster]
    if quick:
        cell = min(quick, key=lambda item: item.forward_ratio or 0.0)
        text = (
            f"It pays: {cell.method} at {kept_label(cell.kept_fraction)} kept is the fastest that loses "
            f"at most {_LIMIT}: {_time(cell)} of the dense forward time "
            f"at {percent(cell.accuracy.mean)} %."
        )
    else:
        text = f"No gain in time is shown: no method within {_LIMIT} of dense is shown faster (95 % interval below 1)."
    return [Finding("pay", text), *_accurate_not_faster([cell for cell in good if not cell.faster])]


def _accurate_not_faster(cells: list[Cell]) -> list[Finding]:
    """Return one finding for cells that are slower than dense, and one for cells whose interval holds 1."""
    slower = [cell for cell in cells if cell.slower]
    return [
        *_time_of("It does not pay in time", "slower than dense", slower),
        *_time_of("Undecided in time", "not shown faster than dense", [c for c in cells if c not in slower]),
    ]


def _time_of(verdict: str, speed: str, cells: list[Cell]) -> list[Finding]:
    if not cells:
        return []
    names = list(dict.fromkeys(cell.method for cell in cells))
    smallest = min((cell.nonzero / cell.params for cell in cells if cell.params), default=1.0)
    why = " (zeros in tensors of full size save storage, not time)" if smallest < 0.9 else ""
    verb, be = ("loses", "is") if len(names) == 1 else ("lose", "are")
    first, *_, last = sorted([cells[0], *cells], key=lambda cell: cell.forward_ratio or 0.0)
    times = _time(first) if len(cells) == 1 else f"{_time(first)} to {_time(last)}"
    text = f"{verdict}: {listed(names)} {verb} at most {_LIMIT} but {be} {speed}{why}: {times} of its forward time."
    return [Finding("pay", text)]


def _time(cell: Cell) -> str:
    """Write the forward time in shares of the dense time with its 95 % interval: ``0.71 (0.54–1.36)``."""
    forward = cell.forward
    return ratio(None) if forward is None else f"{ratio(forward.estimate)} ({ratio(forward.low)}–{ratio(forward.high)})"


def _baselines(cells: tuple[Cell, ...]) -> list[Finding]:
    found = []
    for kept in kept_fractions(cells):
        here = at(cells, kept)
        for baseline in (cell for cell in here if cell.level == "baseline"):
            worse = [cell.method for cell in _pruned(here) if cell.accuracy.mean <= baseline.accuracy.mean]
            if worse:
                text = (
                    f"At {kept_label(kept)} kept, the baseline {baseline.method} "
                    f"({percent(baseline.accuracy.mean)} %) is at least as accurate as {listed(worse)}."
                )
                found.append(Finding("baseline", text))
    if not found and any(cell.level == "baseline" for cell in cells):
        found.append(
            Finding(
                "baseline", "Every method has a higher mean accuracy than every baseline at the same kept fraction."
            )
        )
    return found


def _stability(cells: tuple[Cell, ...], dense: Cell) -> list[Finding]:
    found = []
    repeated = [cell for cell in _pruned(cells) if cell.n > 1]
    if repeated:
        cell = max(repeated, key=lambda item: item.accuracy.std)
        text = (
            f"Over {cell.n} seeds the least stable is {cell.method} at {kept_label(cell.kept_fraction)} kept: "
            f"its accuracy ranges from {percent(cell.accuracy.min)} to {percent(cell.accuracy.max)} %."
        )
        found.append(Finding("stability", text))
    if pruned := _pruned(cells):
        cell = min(pruned, key=lambda item: item.worst_class.mean)
        text = (
            f"The worst class suffers most: with {cell.method} at {kept_label(cell.kept_fraction)} kept it falls from "
            f"{percent(dense.worst_class.mean)} to {percent(cell.worst_class.mean)} %, "
            f"the mean from {percent(dense.accuracy.mean)} to {percent(cell.accuracy.mean)} %."
        )
        if cell.worst_class.mean < dense.worst_class.mean:
            found.append(Finding("stability", text))
    return found


def _check(results: Results) -> list[Finding]:
    errors = [row.check_error for row in results.runs if row.check_error is not None]
    if not errors:
        return []
    failed = sum(error > CHECK_LIMIT for error in errors)
    text = (
        f"{len(errors) - failed} of {len(errors)} cut networks compute what their masked original computes; "
        f"the largest relative error is {max(errors):.1e} (allowed: {CHECK_LIMIT:g})."
    )
    return [Finding("check", text)]
