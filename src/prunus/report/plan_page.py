"""A plan as one HTML page that needs no network: price, forecast, picture, every decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.measurement.forecast import Forecast, warnings_of
from prunus.plans import Decision, Plan
from prunus.report import formats
from prunus.report.html import Panel, page_environment
from prunus.report.meters import asked, meters
from prunus.report.outline import outline
from prunus.report.plan_picture import plan_picture
from prunus.report.plan_table import forecast_lines

if TYPE_CHECKING:
    from prunus.graph.coupling import Coupling

_HEADS = (
    ("node", "The axis, branch or tensor that the decision is about."),
    ("level", "What goes: units, a branch, single weights."),
    ("goes", "How many of its units or weights go."),
    ("of", "How many there are."),
    ("share", "Share that goes, in percent."),
    ("saves params", "Parameters that come back if this decision is taken back."),
    ("saves MACs", "Forward MACs for one sample that come back if this decision is taken back."),
    ("score", "Share of the node's total score that goes, in percent."),
    ("loss", "Predicted rise of the loss, where it was measured."),
    ("why", "The reason that the method gives."),
)
_LEVELS = ("structure", "block", "unit", "window", "weight")


@dataclass(frozen=True, slots=True)
class PlanAbout:
    """The texts of the page around a plan.

    Attributes:
        title: the title, such as ``plan for digits on digits``.
        edits: the edits of a person, a line each.
        forecast: the predicted gain; None leaves the section out.
    """

    title: str
    edits: tuple[str, ...] = ()
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    node: str
    cells: tuple[tuple[str, float | None], ...]
    why: str
    rank: int


def render_plan_page(coupling: Coupling, plan: Plan, about: PlanAbout) -> str:
    """Return the page of one plan; style, script and drawing are inside it.

    Args:
        coupling: the analysed model.
        plan: a plan for this model, with priced decisions.
        about: the texts around the plan.

    Raises:
        UsageError: the packages of the extra ``report`` are not installed.
    """
    pages = page_environment()
    svg = plan_picture(coupling, plan, about.title)
    found = about.forecast
    return pages.get_template("plan.html.j2").render(
        title=about.title,
        about=asked(plan.settings),
        tiles=_tiles(coupling, plan),
        edits=about.edits,
        forecast=found,
        forecast_text="" if found is None else "\n".join(forecast_lines(found)),
        warnings=() if found is None else tuple(warnings_of(found)),
        panel=Panel("plan", svg),
        heads=_HEADS,
        rows=_rows(plan.decisions),
        settings=dict(plan.settings),
    )


def _tiles(coupling: Coupling, plan: Plan) -> list[tuple[str, str, str]]:
    return [
        (f"{formats.percent(after / before)} %", meter.label, f"{meter.form(before)} → {meter.form(after)}")
        for meter, (before, after) in meters(plan, outline(coupling, plan))
    ]


def _rows(decisions: Sequence[Decision]) -> list[_Row]:
    ordered = sorted(decisions, key=lambda d: (-d.saves_params, d.node))
    reasons = sorted({d.reason for d in decisions})
    return [_Row(d.node, _cells(d), d.reason, reasons.index(d.reason)) for d in ordered]


def _cells(d: Decision) -> tuple[tuple[str, float | None], ...]:
    macs, share = d.saves_macs, d.removed / d.total if d.total else None
    level = _LEVELS.index(d.level) if d.level in _LEVELS else len(_LEVELS)
    return (
        (d.level, level),
        (f"{d.removed:,}", d.removed),
        (f"{d.total:,}", d.total),
        (formats.percent(share), share),
        *((f"{n:,}" if n else formats.ABSENT, n or None) for n in (d.saves_params, macs)),
        (formats.percent(d.score_share), d.score_share),
        (formats.ABSENT if d.damage is None else f"{d.damage:+.3g}", d.damage),
    )
