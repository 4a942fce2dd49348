"""Fine-tuning pruning: prune, train and score in rounds; the rate of each round is 0.9 times the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import Limit, Limits
from prunus.criteria import Calibration, CriterionLike, collect_evidence, criterion_of
from prunus.methods.masked_copy import masked_copy, parameter_masks, zero_
from prunus.methods.method import method
from prunus.methods.reduction import Reduction, whole
from prunus.plans import Decision, Plan
from prunus.training import TrainingOptions, finetune_
from prunus.training.schedules import kept_after

ROUNDS = 5
STEPS = 20
"""Training steps between two rounds."""
LEARNING_RATE = 1e-3
_BATCH = 32


@method("fine-tuning-pruning", "hierarchical", "prune, fine-tune, score again, in rounds whose rate decays by 0.9")
def fine_tuning_pruning(analysis: Analysis, limits: Limits) -> Plan:
    """Remove units in rounds, the network trained between them.

    A copy of the network loses its least sensitive units at the rate of the round (`kept_after`), is trained for a few
    steps on calibration data, so that the remaining units take over the function of the removed ones, and is scored
    again. The plan names units of the original network, whose weights do not change: the training only decides which
    units are removed, and recovery follows the cut as for every method. Training minimises the loss of the analysis,
    which scores use too.

    Source: own; rounds of pruning and training: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.

    Args:
        analysis: the network; neither its weights nor its statistics change.
        limits: limits of the analysis's metric.

    Raises:
        BudgetError: the budget is out of reach even with one unit an axis.
        DataError: the targets do not fit the loss.
        OutcomeError: the loss does not stay finite while training.
    """
    keep = in_rounds(whole(analysis), {}, limits[0], "sensitivity", analysis.free_axes())
    reason = f"least sensitive in {ROUNDS} rounds of pruning and training"
    decisions = [
        Decision(axis, "unit", int((~mask).sum()), len(mask), reason) for axis, mask in keep.items() if not mask.all()
    ]
    settings = {"method": "fine-tuning-pruning"}
    return make_plan(analysis.coupling, keep, decisions=decisions, settings=settings, cost=analysis.cost)


def in_rounds(
    reduction: Reduction,
    keep: Mapping[str, np.ndarray],
    limit: Limit,
    criterion: CriterionLike,
    axes: Sequence[str],
) -> dict[str, np.ndarray]:
    """Return the units that stay after rounds of pruning and training, from a network of which some parts went already.

    Args:
        reduction: the network without the branches dropped so far.
        keep: axis id → units that stay so far.
        limit: limit of the analysis's metric.
        criterion: criterion of the units.
        axes: the axes that lose units.

    Raises:
        OptionError: the criterion needs data where there are none.
        BudgetError: the budget is out of reach even with one unit an axis.
    """
    analysis, before = reduction.analysis, reduction.spent_with(keep)
    base = {**keep, **reduction.keep}
    model, masks = masked_copy(reduction, keep)
    scores = _scores(model, analysis, criterion, axes)
    # Raises before any training if the budget is out of reach.
    analysis.fit(scores, limit, cost=reduction.cost, base=base)
    analysis.progress.start("fine-tuning pruning", ROUNDS)
    for number, share in enumerate(kept_after(limit.value / max(1, before), ROUNDS)):
        if number:
            _train_(model, masks, analysis, number)
            scores = _scores(model, analysis, criterion, axes)
        target = limit if number == ROUNDS - 1 else Limit(limit.metric, int(share * before))
        base = analysis.fit(scores, target, cost=reduction.cost, base=base)
        masks = parameter_masks(reduction, reduction.as_plan(base))
        zero_(model, masks)
        analysis.progress.advance("fine-tuning pruning")
    analysis.progress.finish("fine-tuning pruning")
    return base


def _scores(
    model: nn.Module, analysis: Analysis, criterion: CriterionLike, axes: Sequence[str]
) -> dict[str, np.ndarray]:
    batches = list(analysis.calibration.batches(_BATCH))
    calibration = Calibration(model, analysis.coupling, batches, analysis.loss, analysis.seed)
    scores = criterion_of(criterion)(collect_evidence(criterion, calibration))
    return {axis: scores[axis].numpy() for axis in axes}


def _train_(model: nn.Module, masks: Mapping[str, Tensor], analysis: Analysis, number: int) -> None:
    """Train for a few steps; do nothing where no parameter requires grad."""
    if any(parameter.requires_grad for parameter in model.parameters()):
        options = TrainingOptions(STEPS, LEARNING_RATE, loss=analysis.loss)
        finetune_(model, analysis.calibration, options, masks=masks, seed=analysis.seed + number)
