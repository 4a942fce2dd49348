"""The loop of every training: rate, forward, backward, update, with hooks around the update for masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from prunus.data.batches import Batch, device_of, moved
from prunus.errors import OptionError, OutcomeError
from prunus.foundation.as_found import modes_kept
from prunus.foundation.clock import TimeLimit
from prunus.foundation.memory_format import sound_gradients
from prunus.training.objective import Objective
from prunus.training.options import OPTIMIZERS, SCHEDULES, TrainingOptions

KEPT_LOSSES = 100


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The report of a training; ``losses`` are about 100 of the step losses, evenly spaced, the last one included."""

    steps: int
    losses: tuple[float, ...]
    seconds: float

    @staticmethod
    def of(losses: list[float], seconds: float) -> TrainingReport:
        """Return the report of a run with these step losses."""
        stride = max(1, math.ceil(len(losses) / KEPT_LOSSES))
        return TrainingReport(len(losses), tuple(losses[::-stride][::-1]), seconds)


@dataclass(frozen=True, slots=True)
class StepHooks:
    """Functions to call in each step: before the forward pass, before the update (with the loss), and after it."""

    before_forward: Callable[[], object] = lambda: None
    before_update: Callable[[float], object] = lambda loss: None
    after_update: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class TrainingLoop:
    """A model with its optimizer and objective, and the losses of the steps so far.

    Attributes:
        model: plain or inside DistributedDataParallel.
        optimizer: of the model's parameters and the objective's own; see `optimizer_of`.
        limit: the time of the training, in place of ``options.steps``; the learning rate then follows the time.
    """

    model: nn.Module
    options: TrainingOptions
    optimizer: Optimizer
    objective: Objective
    hooks: StepHooks = field(default_factory=StepHooks)
    losses: list[float] = field(default_factory=list)
    limit: TimeLimit | None = None

    def steps(self, batches: Iterator[Batch]) -> Iterator[int]:
        """Take the steps that are left, and yield after each the number done; the training ends with the iteration.

        Raises:
            OutcomeError: the loss is NaN or infinite; the model then holds the weights of the step before.
        """
        while not self.ended:
            self._step(next(batches), len(self.losses))
            yield len(self.losses)

    def _step(self, batch: Batch, step: int) -> None:
        options = self.options
        done = self.limit.share if self.limit is not None else step / options.steps
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * SCHEDULES.get(options.schedule)(done)
        self.hooks.before_forward()
        device = device_of(self.model)
        with sound_gradients(self.model):  # also around the backward pass, which runs checkpointed parts forward again
            loss = self.objective(self.model, moved(batch[0], device), batch[1].to(device))
            value = loss.item()
            if not math.isfinite(value):
                raise OutcomeError(
                    f"the loss is {value} at step {step + 1}{self._of_all}; it must stay finite. "
                    f"Lower lr (now {options.lr:g}) or check the weights and inputs for NaN."
                )
            torch.autograd.backward(loss)
        self.hooks.before_update(value)
        self.optimizer.step()
        self.hooks.after_update()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(value)

    @property
    def ended(self) -> bool:
        """Return whether all steps are taken, or the time is over."""
        return self.limit.over if self.limit is not None else len(self.losses) >= self.options.steps

    @property
    def _of_all(self) -> str:
        return f" of {self.options.steps}" if self.limit is None else ""


def optimizer_of(model: nn.Module, objective: Objective, options: TrainingOptions) -> Optimizer:
    """Return the optimizer of a model's trainable parameters and of the objective's own.

    Raises:
        OptionError: the model has no trainable parameter.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise OptionError("the model has no parameter with requires_grad=True; nothing to train. Unfreeze some.")
    trained += objective.parameters()
    return OPTIMIZERS.get(options.optimizer)(trained, options.lr, options.weight_decay)


@contextmanager
def in_train_mode(model: nn.Module) -> Iterator[None]:
    """Hold a model in train mode; its modes are restored, and its gradients are None at the start and afterwards."""
    with modes_kept(model), torch.enable_grad():
        try:
            model.train()
            model.zero_grad(set_to_none=True)
            yield
        finally:
            model.zero_grad(set_to_none=True)
