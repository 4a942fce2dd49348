"""The recovery methods, from those without steps to those with labels; enrolled in the order of their trial."""

from __future__ import annotations

from itertools import islice

from torch import nn

from prunus.recovery.block_matching import find_block_pairs
from prunus.recovery.dropout import less_dropout
from prunus.recovery.objectives import BlockByBlock, Distillation
from prunus.recovery.recovery_method import recovery_method
from prunus.recovery.task import RecoveryTask
from prunus.repairs import repair_
from prunus.training import Objective, TrainingOptions, Watch, finetune_, reestimate_statistics_

_STATISTICS_BATCHES = 100
_REFOLD_BATCH, _REFOLD_SAMPLES = 64, 512
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _no_norms(task: RecoveryTask) -> str:
    any_norm = any(isinstance(m, _NORMS) and m.running_mean is not None for m in task.model.modules())
    return "" if any_norm else "no batch norm"


def _no_plan(task: RecoveryTask) -> str:
    return "" if task.plan is not None and task.coupling is not None else "it is not known how the network was cut"


def _nothing_to_train(task: RecoveryTask) -> str:
    return "" if any(p.requires_grad for p in task.model.parameters()) else "no parameter may be trained"


def _no_labels(task: RecoveryTask) -> str:
    return _nothing_to_train(task) or ("" if task.labelled else "the data have no labels")


def _no_block_pairs(task: RecoveryTask) -> str:
    return _nothing_to_train(task) or ("" if find_block_pairs(task) else "no block that both networks have")


@recovery_method("statistics", trained=False, unfit=_no_norms)
def statistics_(task: RecoveryTask, options: TrainingOptions, watch: Watch) -> None:
    """Measure the running statistics of batch norms again on about 100 forward batches.

    Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576.
    """
    batches = task.train.batches(options.batch_size, task.seed)
    reestimate_statistics_(task.model, batches, max_batches=_STATISTICS_BATCHES)


@recovery_method("refold", trained=False, unfit=_no_plan)
def refold_(task: RecoveryTask, options: TrainingOptions, watch: Watch) -> None:
    """Refit every layer by ridge regression to the outputs of the dense network's layer.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168 (the
    reconstruction).
    """
    assert task.plan is not None
    assert task.coupling is not None
    batches = list(islice(task.train.batches(_REFOLD_BATCH), _REFOLD_SAMPLES // _REFOLD_BATCH))
    repair_(task.dense, task.model, task.coupling, task.plan, batches, repair="refold", seed=task.seed)


@recovery_method("blocks", trained=True, unfit=_no_block_pairs, most=0.25)
def blocks_(task: RecoveryTask, options: TrainingOptions, watch: Watch) -> None:
    """Train each block towards the outputs of the dense network's block, without labels.

    Source: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
    arXiv:2102.05426 (blocks as the unit).
    """
    objective = BlockByBlock(task, find_block_pairs(task))
    _train_(task, options, watch, objective)


@recovery_method("distil", trained=True, unfit=_nothing_to_train)
def distil_(task: RecoveryTask, options: TrainingOptions, watch: Watch) -> None:
    """Learn from the dense network's outputs, and from labels where there are some.

    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531; Romero et al.,
    "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550 (hints).
    """
    pairs = find_block_pairs(task) if task.options.hints else ()
    objective = Distillation(task, pairs)
    _train_(task, options, watch, objective)


@recovery_method("finetune", trained=True, unfit=_no_labels)
def finetune_on_labels_(task: RecoveryTask, options: TrainingOptions, watch: Watch) -> None:
    """Learn from labels alone.

    Source: own; training after pruning: Han et al., "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626.
    """
    _train_(task, options, watch, None)


def _train_(task: RecoveryTask, options: TrainingOptions, watch: Watch, objective: Objective | None) -> None:
    with less_dropout(task.model, task.options.dropout or 0.0):
        finetune_(
            task.model, task.train, options, masks=task.masks, seed=task.seed, objective=objective, progress=watch
        )
