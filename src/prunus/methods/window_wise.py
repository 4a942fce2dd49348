"""Window-wise: windows of any size over weights, kernels, units or positions are kept or removed as a whole."""

from __future__ import annotations

from typing import Any

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limits
from prunus.criteria import CriterionLike, comparable_scores, criterion_name, damage_curves
from prunus.foundation.defaults import DEFAULTS
from prunus.masks.window import Window, Windows
from prunus.masks.window_option import Positions, Units, WindowKind, canonical_window, window_of
from prunus.methods.method import method
from prunus.methods.scored_units import unit_scores
from prunus.methods.weights import MAGNITUDE, maskable, windows_plan
from prunus.methods.window_positions import position_windows
from prunus.methods.window_units import InRuns, run_means
from prunus.plans import Decision, Plan

WINDOW = "tile=4x4"
"""The window where none is given."""
_WORDS = {"tile": "tile", "strip": "strip", "column": "strip", "kernel": "part of a kernel", "positions": "positions"}


@method(
    "window-wise",
    "weight",
    "keep the best windows of any size over weights, kernels, units or positions",
    counts="windows",
    options=("criterion", "window"),
    criteria="weights",
)
def window_wise(
    analysis: Analysis,
    limits: Limits,
    *,
    criterion: CriterionLike | None = DEFAULTS.criterion,
    window: Any = DEFAULTS.window,
) -> Plan:
    """Keep the windows of highest mean score.

    Windows of weights, kernels and positions are masked until exactly the budget is met; windows of units are removed
    from the network, every axis the same share of its units, as in method ``units``.

    Source: own; tiles: Narang et al., "Block-Sparse Recurrent Neural Networks", arXiv:1711.02782; parts of kernels:
    Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks", arXiv:1705.08922.

    Args:
        analysis: the network and its data.
        limits: limits of the analysis's metric.
        criterion: criterion of weights, or of units for windows of units; None is magnitude.
        window: as in `prunus.prune`; None is ``[4, 4]``.

    Raises:
        OptionError: an unknown criterion or window, or no data.
        BudgetError: the best window of every layer exceeds the budget, or no weight belongs to positions.
    """
    text = canonical_window(window) or WINDOW
    kind = window_of(text)
    if isinstance(kind, Units):
        return _runs(analysis, limits, criterion or MAGNITUDE, kind.length)
    what = f"{text.partition('=')[2].replace('x', '×')} {_WORDS[text.partition('=')[0]]}"
    return windows_plan(analysis, limits, weight_windows(analysis, kind), what, criterion)


def weight_windows(analysis: Analysis, kind: Window | WindowKind) -> Windows:
    """Return the windows of weights of an option.

    Raises:
        BudgetError: windows of positions, and no weight belongs to positions.
    """
    if isinstance(kind, Positions):
        return position_windows(analysis, kind, maskable(analysis))
    assert not isinstance(kind, Units)
    return kind


def _runs(analysis: Analysis, limits: Limits, criterion: CriterionLike, length: int) -> Plan:
    scores = run_means(unit_scores(analysis, criterion), length)
    damage = damage_curves(analysis.coupling, scores, criterion)
    keep = analysis.fit(comparable_scores(scores), limits, allocator=InRuns("uniform", length), damage=damage)
    settings = {"criterion": criterion_name(criterion)}
    reason = f"lowest mean {criterion_name(criterion)} over runs of {length}"
    decisions = [Decision(a, "unit", int((~m).sum()), len(m), reason) for a, m in keep.items() if not m.all()]
    return make_plan(analysis.coupling, keep, decisions=decisions, settings=settings, cost=analysis.cost)
