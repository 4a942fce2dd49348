"""A stage that prunes while it trains: a strategy of the pruner on what earlier stages left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from prunus.budget import Limit
from prunus.data.batches import DataSource
from prunus.exporters import undo
from prunus.graph.capture import unwrap
from prunus.methods.masks_after_units import masks_left
from prunus.methods.reduction import Reduction
from prunus.methods.weights import maskable
from prunus.pipeline.stage_levels import network_left
from prunus.pipeline.stage_state import State
from prunus.plans import Decision
from prunus.pruner import Pruner, PrunerOptions
from prunus.pruner.loop import train_pruning_
from prunus.pruner.structure import Structure, emptied
from prunus.pruner.teacher import Teacher
from prunus.recovery import RecoveryOptions
from prunus.surgery.cut import cut_with_record
from prunus.surgery.tensors import sliced_masks

if TYPE_CHECKING:
    from prunus.pipeline.stage import Stage


def pruned_while_training(
    state: State, dense: nn.Module, stage: Stage, limit: Limit, data: DataSource, training: RecoveryOptions
) -> State:
    """Return the state after a stage with a strategy.

    Args:
        state: the result of earlier stages.
        dense: the dense network, the teacher where the recovery distils.
        stage: the stage; its steps are the training.
        limit: the budget of the stage.
        data: the training data.
        training: the options of the training.
    """
    options = replace(training, steps=stage.steps or 0)
    teacher = Teacher(unwrap(dense), options) if options.method == "distil" else None
    if stage.level == "weights":
        return _weights(state, stage, limit, data, options, teacher)
    return _structure(state, stage, limit, data, options, teacher)


def _options(stage: Stage, kept: float, ignore: tuple[str, ...] = ()) -> PrunerOptions:
    return PrunerOptions(
        kept,
        str(stage.strategy),
        schedule=stage.schedule,
        criterion=stage.criterion,
        allocator=stage.allocator or "uniform",
        settings=stage.settings,
        ignore=ignore,
    )


def _structure(
    state: State, stage: Stage, limit: Limit, data: DataSource, options: RecoveryOptions, teacher: Teacher | None
) -> State:
    """Remove branches or units in the original's shapes, where those of earlier stages stay at zero."""
    analysis, dropped = state.analysis, state.reduction.dropped
    empty = emptied(analysis.coupling, dropped)
    keep = {axis: units for axis, units in state.keep.items() if axis not in empty}
    structure = Structure(analysis, analysis.spent(analysis.cost.price()), keep, dropped)
    model = network_left(state)
    pruner = Pruner(model, _options(stage, limit.value / structure.total), structure=structure, teacher=teacher)
    train_pruning_(model, data, options.options(), pruner=pruner, seed=analysis.seed)
    reduction = Reduction.of(analysis, structure.dropped)
    assert reduction is not None
    known = {decision.node for decision in state.decisions if decision.level == "block"}
    decisions = [decision for decision in state.decisions if decision.level != "unit"]
    decisions += [decision for decision in pruner.plan().decisions if decision.node not in known]
    keep = {**structure.keep, **reduction.keep}
    return replace(state, reduction=reduction, keep=keep, decisions=tuple(decisions)).with_weights(model)


def _weights(
    state: State, stage: Stage, limit: Limit, data: DataSource, options: RecoveryOptions, teacher: Teacher | None
) -> State:
    """Mask weights of the network without its branches and units."""
    analysis, plan = state.analysis, state.plan()
    small = cut_with_record(analysis.model, analysis.coupling, plan, analysis.example_inputs)[0]

    def train(left: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
        others = tuple(name for name, _ in small.named_parameters() if name not in left)
        share = count / sum(score.numel() for score in left.values())
        pruner = Pruner(small, _options(stage, share, others), teacher=teacher, masks=sliced_masks(plan))
        train_pruning_(small, data, options.options(), pruner=pruner, seed=analysis.seed)
        whole = {name: score.new_ones(score.shape).bool() for name, score in left.items()}
        return {name: pruner.masks.get(name, mask) for name, mask in whole.items()}

    weights = {name: weight.detach() for name, weight in maskable(analysis).items()}
    masks = masks_left(state.reduction, state.keep, weights, limit, train)
    reason = f"{stage.strategy} while training"
    decisions = [decision for decision in state.decisions if decision.level != "weight"]
    decisions += [Decision(name, "weight", int((~m).sum()), m.size, reason) for name, m in masks.items()]
    return replace(state, masks=masks, decisions=tuple(decisions)).with_weights(undo(small, plan, analysis.model))
