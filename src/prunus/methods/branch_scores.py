"""Criteria of branches: gate importance, mean |activation|, contribution to the sum, share of values not zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunus.criteria import criterion_name, mixture_of
from prunus.errors import OptionError, nearest
from prunus.graph.ir import Ref
from prunus.methods.join_importance import Gates
from prunus.methods.levels_from_data import unlabelled
from prunus.methods.masked_run import Replay
from prunus.methods.reduction import Reduction
from prunus.tree import Branch

GATE = "gate"
ACTIVATIONS = ("mean-activation", "contribution", "apoz")
BRANCH_CRITERIA = (GATE, *ACTIVATIONS)
WORDS = {
    GATE: "gate importance",
    "mean-activation": "mean |activation|",
    "contribution": "contribution to the sum",
    "apoz": "share of values that are not zero",
}


def check_branch_criterion(criterion: Any) -> None:
    """Refuse a name, or a mixture of names, that is no criterion of branches.

    Raises:
        OptionError: an unknown name; it lists all.
    """
    for name in mixture_of(criterion) or (criterion,):
        if name not in BRANCH_CRITERIA:
            close = nearest(str(name), BRANCH_CRITERIA)
            shown = name if isinstance(name, str) else criterion_name(name)
            raise OptionError(
                f"criterion {shown!r} scores no branches, and modules are ranked here.{close} Allowed for modules: "
                f"{', '.join(BRANCH_CRITERIA)}, or a mixture of them."
            )


def branch_words(criterion: Any) -> str:
    """Return a criterion of branches in words, for reasons in plans."""
    return WORDS.get(criterion, criterion_name(criterion))


def branch_scores(
    reduction: Reduction,
    branches: Sequence[Branch],
    criterion: Any = GATE,
    keep: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Return branch id → score on the network so far; higher = keep.

    ``gate``: the slope of the loss in a gate on the branch, I = E[(∂ℓ/∂γ)²] (`Gates`); it needs labels. The others
    need inputs alone; b is the value of the branch, s that of the join behind it:

        mean-activation  E|b|               over samples, positions and units
        contribution     Σ b² / Σ s²        the branch's share of the energy of its sum, or of its concatenation
        apoz             share of b ≠ 0     one less the average percentage of zeros

    A mixture adds them with its weights, each divided by its mean over the branches.

    Source: own; mean activation: Molchanov et al., arXiv:1611.06440; zeros: Hu et al., arXiv:1607.03250.

    Args:
        reduction: the network without the branches dropped so far.
        branches: the branches to score.
        criterion: a name of `BRANCH_CRITERIA`, or a mixture.
        keep: axis id → units that stay.

    Raises:
        OptionError: an unknown name, or no data.
        DataError: batches of another program than the captured one.
    """
    check_branch_criterion(criterion)
    weights = mixture_of(criterion) or {criterion: 1.0}
    parts: dict[str, Mapping[str, float]] = {}
    if GATE in weights:
        importance = Gates(reduction.analysis).importance(reduction, keep)
        parts[GATE] = {b.id: float(sum(importance[edge] for edge in b.edges)) for b in branches}
    if weights.keys() - {GATE}:
        parts |= _activations(reduction, branches, keep or {})
    if len(weights) == 1:
        return dict(parts[next(iter(weights))])
    total, mixed = sum(weights.values()), {branch.id: 0.0 for branch in branches}
    for name, weight in weights.items():
        mean = sum(parts[name].values()) / max(1, len(branches))
        for branch in branches:
            mixed[branch.id] += weight / total * parts[name][branch.id] / mean if mean > 0 else 0.0
    return mixed


def _activations(
    reduction: Reduction, branches: Sequence[Branch], keep: Mapping[str, np.ndarray]
) -> dict[str, Mapping[str, float]]:
    plan = reduction.as_plan(keep)
    joins = {branch.id: Ref(branch.join) for branch in branches}
    sums = {branch.id: np.zeros(4) for branch in branches}
    energy = dict.fromkeys(sums, 0.0)
    refs = {branch.value for branch in branches} | set(joins.values())
    for values in Replay(reduction.analysis).values(unlabelled(reduction.analysis), refs, plan):
        for branch in branches:
            b = values[branch.value].detach().double()
            sums[branch.id] += np.array(
                [float(b.abs().sum()), float(b.square().sum()), float((b != 0).sum()), float(b.numel())]
            )
            energy[branch.id] += float(values[joins[branch.id]].detach().double().square().sum())
    return {
        "mean-activation": {name: total[0] / max(1.0, total[3]) for name, total in sums.items()},
        "contribution": {name: total[1] / max(energy[name], 1e-30) for name, total in sums.items()},
        "apoz": {name: total[2] / max(1.0, total[3]) for name, total in sums.items()},
    }
