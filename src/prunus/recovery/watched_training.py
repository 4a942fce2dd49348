"""One attempt of a recovery: a method trains, held-out data are evaluated now and then, and the best state is kept."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from prunus.errors import OutcomeError, UsageError
from prunus.foundation import clock
from prunus.recovery.log import Attempt
from prunus.recovery.recovery_method import RecoveryMethod
from prunus.recovery.step_budget import EVALUATIONS, StepBudget
from prunus.recovery.task import RecoveryTask

PATIENCE = 3
"""Number of evaluations without a gain before an attempt may end early."""
LOST = 4.0
"""An attempt without a gain ends where the loss is this many times the first one. From five eighths of its steps on
the factor is 1: the falling rate brings its gain late, but not that late."""


class BestState:
    """The state with the lowest held-out loss so far, so a restored model is never worse than at the beginning.

    Attributes:
        value: the held-out loss of that state.
    """

    def __init__(self, task: RecoveryTask) -> None:
        self._task = task
        self.value = task.measure()
        self._state = _state(task.model)

    def fork(self) -> BestState:
        """Return a copy that starts with the same best state and is updated separately."""
        return copy.copy(self)

    def offer(self) -> float:
        """Measure the model as it is now, keep its state if it is the best so far, and return its loss."""
        value = self._task.measure()
        if value < self.value or (math.isfinite(value) and not math.isfinite(self.value)):
            self.value, self._state = value, _state(self._task.model)
        return value

    def restore_(self) -> None:
        """Restore the best state of the model."""
        with torch.no_grad():
            for name, tensor in _tensors(self._task.model).items():
                tensor.copy_(self._state[name])


@dataclass(slots=True)
class _Watch:
    """A watch that evaluates held-out data now and then, and ends an attempt that diverges or is out of time."""

    best: BestState
    step_budget: StepBudget
    every: int
    patient: bool
    seen: list[float]
    lowest: float = math.inf
    steps: int = 0
    ended: str = ""
    evaluating: float = 0.0
    evaluations: int = 0

    def __call__(self, done: int, steps: int) -> bool:
        self.steps = done
        if done % self.every == 0 or done == steps:
            began = clock.seconds()
            value = self.best.offer()
            self.evaluating += clock.seconds() - began
            self.evaluations += 1
            self.lowest = min(self.lowest, value)
            self.seen.append(min(self.seen[-1], value))
            worse = not value < (LOST if done < 5 * steps // 8 else 1.0) * self.seen[0]
            if not self.patient and len(self.seen) > PATIENCE and self.seen[-1] == self.seen[0] and worse:
                self.ended = "the rate is too high"
        if self.step_budget.out_of_time:
            self.ended = "the time is over"
        return bool(self.ended) and done < steps


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """The settings of an attempt.

    Attributes:
        method: the recovery method.
        steps: number of steps; methods that take none ignore it.
        rate_factor: factor on the learning rate.
        patient: never end early, whatever the loss.
    """

    method: RecoveryMethod
    steps: int = 0
    rate_factor: float = 1.0
    patient: bool = False


def watched_training(
    task: RecoveryTask, settings: AttemptSettings, best: BestState, step_budget: StepBudget, why: str
) -> Attempt:
    """Try a method; the model ends in the best state seen, which may be the first one, even after an error.

    Args:
        task: its model is changed.
        settings: method, steps and rate.
        best: the best state so far; updated.
        step_budget: charged with the steps and seconds; ends the attempt when the time is over.
        why: the reason for the log.
    """
    began, before = clock.seconds(), best.value
    method, training = settings.method, task.options.options()
    options = replace(training, steps=max(1, settings.steps), lr=training.lr * settings.rate_factor)
    watch = _Watch(best, step_budget, max(1, settings.steps // EVALUATIONS), settings.patient, [before])
    try:
        method.run(task, options, watch)
        if not method.trained:
            watch.lowest = best.offer()
            watch.ended = "it changed nothing" if watch.lowest == before else ""
    except OutcomeError as error:
        watch.ended = str(error).split(";")[0]
    except UsageError as error:
        if method.trained:
            raise
        watch.ended, watch.lowest = (
            str(error),
            before,
        )  # a method that cannot be used here is passed over, as the log says
    finally:
        best.restore_()  # after an error or an interrupt the model still has its best state
    seconds = clock.seconds() - began
    step_budget.take(watch.steps, seconds, watch.evaluating, watch.evaluations)
    after = min(best.value, watch.lowest) if best.value < before else watch.lowest
    reasons = (why, f"rate ×{settings.rate_factor:g}" if settings.rate_factor != 1 else "", watch.ended)
    # A method without steps and without a gain is logged with the end alone.
    reason = watch.ended if watch.ended and not method.trained else "; ".join(filter(None, reasons))
    return Attempt(method.name, watch.steps, seconds, before, after, best.value < before, reason)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))
