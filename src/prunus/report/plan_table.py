"""A plan, a forecast, or the difference of two plans as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prunus.analysis.input_size import input_size_line
from prunus.foundation.index_ranges import to_ranges
from prunus.plans import Cost, Decision, Plan
from prunus.substitutes import bridge_lines

if TYPE_CHECKING:
    from prunus.analysis.review.diff import PlanDiff
    from prunus.measurement.forecast import Forecast

_COSTS = (
    ("params", "params"),
    ("MACs forward", "macs_forward"),
    ("MACs backward", "macs_backward"),
    ("bytes", "param_bytes"),
)
Row = Sequence[str]


def plan_lines(plan: Plan, *, most: int | None = None) -> Iterator[str]:
    """Yield the lines of a plan: the price before and after, then one line per decision, largest saving first.

    Args:
        plan: a plan with priced decisions.
        most: the number of decisions to show; None shows all.
    """
    yield from price_lines(plan)
    yield from damage_lines(plan)
    yield ""
    order = sorted(plan.decisions, key=lambda d: (-d.saves_params, d.node))
    rows: list[Row] = [("node", "level", "goes", "saves params", "saves MACs", "predicted cost", "why")]
    rows += [_decision_row(d) for d in order[:most]]
    yield from aligned(rows, right=range(2, 6))
    if most is not None and len(order) > most:
        yield f"… and {len(order) - most} more; --all shows them, and plan.json holds them."


def price_lines(plan: Plan) -> Iterator[str]:
    """Yield the price of a plan before and after, a line per metric; MACs are for one sample.

    Masked weights change no metric of dense tensors, so a plan with masks has a line of its own for them.
    """
    if plan.before and plan.after:
        rows = [_cost_row(label, field, plan.before, plan.after) for label, field in _COSTS]
        if plan.masks:
            total, kept = plan.before.params, plan.after.params - plan.masked
            rows.append(("params not masked", f"{total:,}", f"{kept:,}", f"{kept / total:.1%}"))
        yield from aligned([("", "before", "after", "kept"), *rows])
    size = input_size_line(plan)
    if size:
        yield size
    yield from bridge_lines(plan.bridges)
    yield from counted_lines(plan)
    yield from plan.settings.get("over_kept") or ()


def counted_lines(plan: Plan) -> Iterator[str]:
    """Yield the number of parts that a budget of counts or a threshold keeps, and its note where it cannot be exact."""
    counted = plan.settings.get("counted")
    if counted:
        yield f"{counted['kept']:,} of {counted['of']:,} {counted['kind']} stay"
        if "note" in counted:
            yield counted["note"]


def damage_lines(plan: Plan) -> Iterator[str]:
    """Yield the damage of all decisions together and one by one, and the result of a search, if measured."""
    found, search = plan.settings.get("damage"), plan.settings.get("search")
    if search and search["rise_after"] is not None:
        yield (
            f"search: loss +{search['rise_before']:.4g} before, +{search['rise_after']:.4g} after "
            f"{search['evaluations']:,} trials"
        )
    if found:
        ratio = "" if found["ratio"] is None else f": R = {found['ratio']:.2f}"
        yield (
            f"loss before recovery {found['dense_loss']:.4g} → +{found['together']:.4g}; the decisions one by one "
            f"+{found['singles']:.4g}{ratio}"
        )


def forecast_lines(found: Forecast) -> Iterator[str]:
    """Yield the predicted gain of a plan, a line per runtime; `forecast.warnings_of` makes the warnings."""
    rows: list[Row] = [(f"predicted time of dense (batch {found.batch}, threads {found.threads})", "")]
    for label, ratio in (
        ("eager PyTorch", found.eager),
        ("ONNX Runtime, its convolutions and linear maps", found.onnx),
        ("eager PyTorch, sparse kernels where they win", found.sparse),
    ):
        if ratio is not None:
            rows.append((f"  {label}", f"{ratio:.2f}"))
    rows.append(("stored bytes, masked weights packed", f"{found.packed_bytes:,}"))
    yield from aligned(rows)
    yield from found.notes


def diff_lines(diff: PlanDiff) -> Iterator[str]:
    """Yield the lines of a difference between two plans; MACs are for one sample."""
    if diff.is_empty:
        yield "The plans cut alike."
        return
    first, second = diff.after
    if first and second:
        yield from aligned(
            [("after", "first", "second", "ratio"), *(_cost_row(n, f, first, second) for n, f in _COSTS)]
        )
        yield ""
    rows: list[Row] = [("axis", "of", "first keeps", "second keeps", "only first keeps", "only second keeps")]
    for change in diff.axes:
        kept, only = map(str, change.kept), map(_units, (change.only_first, change.only_second))
        rows.append((change.axis, str(change.size), *kept, *only))
    if len(rows) > 1:
        yield from aligned(rows, right=range(1, 4))
    for name, drops in (("first", diff.drops_first), ("second", diff.drops_second)):
        yield from (f"only the {name} drops {label}" for label in drops)
    for tensor, a, b in diff.masks:
        yield f"mask of {tensor}: {_mask(a)} / {_mask(b)}"


def aligned(rows: Sequence[Row], right: Sequence[int] | range = range(1, 99)) -> Iterator[str]:
    """Yield rows as lines with columns of equal width; columns in ``right`` are aligned right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield "  ".join(cells).rstrip()


def _cost_row(label: str, field: str, before: Cost, after: Cost) -> Row:
    old, new = getattr(before, field), getattr(after, field)
    return label, f"{old:,}", f"{new:,}", f"{new / old:.1%}" if old else "–"


def _decision_row(d: Decision) -> Row:
    share = f"{d.removed:,} of {d.total:,}"
    if d.damage is not None:
        cost = f"loss {d.damage:+.3g}"
    else:
        cost = "–" if d.score_share is None else f"{d.score_share:.1%} of its score"
    saves = [f"{n:,}" if n else "–" for n in (d.saves_params, d.saves_macs)]
    return d.node, d.level, share, *saves, cost, d.reason


def _units(units: tuple[int, ...]) -> str:
    import numpy as np

    text = to_ranges(np.asarray(units, np.int64))
    return text if len(text) <= 40 else text[:37] + "…"


def _mask(kept: int | None) -> str:
    return "none" if kept is None else f"{kept:,} stay"
