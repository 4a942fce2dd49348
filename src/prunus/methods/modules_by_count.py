"""Plans of budgets that count branches: the n best stay, or all above a threshold."""

from __future__ import annotations

import numpy as np

from prunus.analysis import Analysis
from prunus.budget.counts import Count, Threshold, number_kept
from prunus.budget.useful import check_something_goes, check_threshold
from prunus.criteria import CriterionLike, criterion_name
from prunus.errors import BudgetError
from prunus.methods.branch_scores import GATE, branch_scores, branch_words
from prunus.methods.counted import counted, number_of, reason_of, rounded_up
from prunus.methods.reduction import Reduction, droppable, whole
from prunus.plans import Decision, Plan
from prunus.tree import Branch


def modules_by_count(analysis: Analysis, count: Count, criterion: CriterionLike | None = None) -> Plan:
    """Drop the branches of lowest score one after the other; their joins keep the other operand.

    Args:
        analysis: the network and its data.
        count: the budget.
        criterion: criterion of the branches, see `branch_scores`; None is gate importance.

    Raises:
        OptionError: the criterion scores no branches.
        BudgetError: there are no branches, all would stay, or more are needed to stay connected.
    """
    branches, start = droppable(analysis), whole(analysis)
    if not branches:
        raise BudgetError(
            f"Budget {count} has nothing to choose from: the network has no block or branch that it can do without. "
            "Use a budget of units."
        )
    name = criterion or GATE
    worth, words = branch_scores(start, branches, name), branch_words(name)
    ranked = sorted(branches, key=lambda branch: (worth[branch.id], branch.id))
    limit = count.whole
    if isinstance(limit, Threshold):
        values = np.array([worth[branch.id] for branch in ranked])
        check_threshold({"": (values, limit)}, "modules", words)
        ranked = [branch for branch, stays in zip(ranked, limit.keeps(values), strict=True) if not stays]
        least = 0
    else:
        least = max(1, number_kept(number_of(limit), len(branches)))
        check_something_goes(count, "modules", len(branches), least < len(branches))
    found = _without(start, branches, ranked, least)
    left = _staying(found, branches)
    if len(left) > least > 0:
        raise BudgetError(
            f"Budget {count} keeps {least} of {len(branches)} modules, and the network needs {len(left)} of them to "
            f"stay connected. Give {len(left)} or more."
        )
    check_something_goes(count, "modules", len(branches), bool(found.dropped))
    reason = reason_of(words, count, limit)
    decisions = [Decision(b.id, "structure", b.params, b.params, f"{reason}: {worth[b.id]:.3g}") for b in found.dropped]
    note = (
        ""
        if isinstance(limit, Threshold)
        else rounded_up(count, number_kept(number_of(limit), len(branches)), len(branches))
    )
    settings = {
        "method": "modular",
        "criterion": criterion_name(name),
        "counted": counted("modules", len(left), len(branches), note),
    }
    return found.as_plan({}, decisions, settings)


def _without(reduction: Reduction, branches: tuple[Branch, ...], ranked: list[Branch], least: int) -> Reduction:
    """Drop ranked branches in order, as long as at least a number of all branches stays."""
    for branch in ranked:
        if branch not in reduction.left(branches):
            continue
        smaller = reduction.without(branch)
        if smaller is not None and len(_staying(smaller, branches)) >= least:
            reduction = smaller
    return reduction


def _staying(reduction: Reduction, branches: tuple[Branch, ...]) -> list[Branch]:
    gone = {branch.id for branch in reduction.dropped}
    return [b for b in branches if b.id not in gone and not any(d.holds(b) for d in reduction.dropped)]
