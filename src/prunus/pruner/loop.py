"""A training loop that prunes while it trains, and that resumes bit-identically after a kill."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from prunus.data.batches import DataSource
from prunus.errors import OptionError
from prunus.foundation import clock
from prunus.foundation.clock import NO_LIMIT, TimeLimit
from prunus.foundation.progress import Progress, Silent
from prunus.graph.capture import unwrap
from prunus.pruner.log_sinks import Log
from prunus.pruner.pruner import Pruner
from prunus.pruner.teacher import Taught
from prunus.pruner.training_state import (
    Checkpoints,
    Run,
    damage_named,
    found_state,
    identity_of,
    random_states,
    set_random_states,
)
from prunus.recovery.task import first_batch
from prunus.training.loop import StepHooks, TrainingLoop, TrainingReport, in_train_mode, optimizer_of
from prunus.training.losses import name_of
from prunus.training.objective import Labels, Objective
from prunus.training.options import TrainingOptions
from prunus.training.order import Order
from prunus.training.schedules import RAMP


def train_pruning_(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    *,
    pruner: Pruner | None = None,
    seed: int = 0,
    objective: Objective | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
    minutes: float | None = None,
    final: float = RAMP,
) -> TrainingReport:
    """Train ``model`` in place while ``pruner`` prunes it; a stored training is resumed.

    The same model, data, options, pruner, seed, device and thread count give bit-identical weights, masks and optimizer
    states, whether or not the process was killed and started again in between, at any step.

    Args:
        model: changed in place; DistributedDataParallel may be around it.
        data: read as often as the steps need; in several processes each has its own part.
        options: steps, rate, optimizer, loss, schedule.
        pruner: the pruner of this model; None only trains.
        seed: the seed of the batch order and of all random numbers; the caller's random state is restored.
        objective: minimised in place of ``options.loss``, or of the loss with the pruner's teacher.
        checkpoints: the file to store to and to resume from; None stores nothing.
        progress: a task "train" is advanced with every step.
        log: called with ("train/loss", loss, step) after each step.
        minutes: the time of the training, in place of ``options.steps``. The learning rate and the masks then follow
            the time, so two trainings are alike only as far as their steps take equally long.
        final: the share of the minutes after which the pruner's final level holds.

    Raises:
        OptionError: nothing to train, a checkpoint of another training, a checkpoint that cannot be written,
            checkpoints of a network that is cut while it trains, or a teacher with another loss of labels.
        UsageError: as `Pruner.train_begin`.
        ModelError: a teacher that does not fit the model.
        DataError: no batches, or targets that do not fit the loss.
        OutcomeError: the loss is NaN or infinite.
    """
    if checkpoints is not None and pruner is not None and pruner.options.cut != "never":
        raise OptionError(
            f"cut is {pruner.options.cut!r} and checkpoints are on: a cut network does not fit the model a later "
            "process builds. Use cut='never', and pruner.cut_() after the training."
        )
    objective = objective or _objective(pruner, options)
    started, bare = clock.seconds(), unwrap(model)
    limit = None if minutes is None else TimeLimit(minutes)
    optimizer = optimizer_of(bare, objective, options)
    order = Order(data, options.batch_size, seed, at_epoch=lambda: run.epoch_begins())
    run = Run(bare, optimizer, objective, order, pruner, [], limit=limit)
    with _as_found(bare, pruner):
        if pruner is not None and pruner.teacher is not None:
            pruner.teacher.check(bare, first_batch(data, bare)[0])
        _seed(seed)
        identity = identity_of(bare, data, options, pruner, objective, seed) | {"minutes": minutes}
        state = found_state(checkpoints, identity) if checkpoints else None
        with damage_named(checkpoints, bare) if state is not None else contextlib.nullcontext():
            if state is not None:
                run.restore(state)
            if pruner is not None:
                steps = max(1, options.steps) if limit is None else None
                pruner.train_begin(optimizer, steps, minutes=limit, final=final)
            batches = run.batches(state)
        shown = progress or Silent()
        shown.start("train", options.steps if limit is None else NO_LIMIT)
        shown.advance("train", len(run.losses))
        loop = TrainingLoop(model, options, optimizer, objective, _hooks(pruner), run.losses, limit)
        for done in loop.steps(batches):
            if log is not None:
                log("train/loss", run.losses[-1], done - 1)
            if checkpoints is not None and (done % checkpoints.every == 0 or loop.ended):
                run.store(checkpoints, identity)
            shown.advance("train")
        shown.finish("train")
        if pruner is not None:
            pruner.train_end()
    return TrainingReport.of(run.losses, clock.seconds() - started)


def _objective(pruner: Pruner | None, options: TrainingOptions) -> Objective:
    if pruner is None or pruner.teacher is None:
        return Labels(options.loss)
    if pruner.teacher.options.loss != options.loss:
        raise OptionError(
            f"the training minimises {name_of(options.loss)!r}, and the pruner's loss of labels is "
            f"{name_of(pruner.teacher.options.loss)!r}; give Pruner(labels_loss=…) the same."
        )
    return Taught(pruner.teacher)


def _hooks(pruner: Pruner | None) -> StepHooks:
    if pruner is None:
        return StepHooks()
    return StepHooks(pruner.step_begin, pruner.before_optimizer_step, pruner.after_optimizer_step)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextlib.contextmanager
def _as_found(model: nn.Module, pruner: Pruner | None) -> Iterator[None]:
    """Set the model to train mode, and restore its modes and all random states at the end, after errors too."""
    states = random_states(model)
    try:
        with in_train_mode(model):
            yield
    finally:
        if pruner is not None:
            pruner.detach()
        set_random_states(states)
