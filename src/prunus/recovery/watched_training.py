"""One attempt of a recovery: a way is tried, watched on held-out data, and the best state kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from prunus.errors import OutcomeError, UsageError
from prunus.recovery.best_state import Best
from prunus.recovery.log import Attempt
from prunus.recovery.recovery_method import RecoveryMethod
from prunus.recovery.step_budget import StepBudget
from prunus.recovery.task import RecoveryTask

LOOKS = 8
"""How often an attempt looks at the held-out data."""
PATIENCE = 3
"""A attempt has so many looks to bring something before it may be called lost."""
LOST = 4.0
"""It is lost where it brought nothing and the loss stands so many times as high as it began. From five eighths of its
steps on once is enough: the falling rate brings its gain late, but not that late."""


@dataclass(slots=True)
class _Watch:
    """Looks at held-out data now and then, and ends an attempt that is lost or out of time."""

    best: Best
    step_budget: StepBudget
    every: int
    patient: bool
    seen: list[float]
    lowest: float = math.inf
    steps: int = 0
    ended: str = ""

    def __call__(self, done: int, steps: int) -> bool:
        self.steps = done
        if done % self.every == 0 or done == steps:
            value = self.best.offer()
            self.lowest = min(self.lowest, value)
            self.seen.append(min(self.seen[-1], value))
            worse = not value < (LOST if done < 5 * steps // 8 else 1.0) * self.seen[0]
            if not self.patient and len(self.seen) > PATIENCE and self.seen[-1] == self.seen[0] and worse:
                self.ended = "the rate is too high"
        if self.step_budget.out_of_time:
            self.ended = "the time is over"
        return bool(self.ended) and done < steps


@dataclass(frozen=True, slots=True)
class Course:
    """How an attempt runs.

    Attributes:
        method: the way.
        steps: how many; ways that take none ignore it.
        rate_factor: factor on the learning rate.
        patient: do not end early, whatever the loss does.
    """

    method: RecoveryMethod
    steps: int = 0
    rate_factor: float = 1.0
    patient: bool = False


def watched_training(task: RecoveryTask, course: Course, best: Best, step_budget: StepBudget, why: str) -> Attempt:
    """Try a way; the model ends in the best state seen, which may be the one it began with, even after an error.

    Args:
        task: whose model is changed.
        course: which way, how far, how fast.
        best: the best state so far; carried on.
        step_budget: what is booked, and ends the attempt when the time is over.
        why: for the log.
    """
    began, before = time.perf_counter(), best.value
    method, training = course.method, task.options.options()
    options = replace(training, steps=max(1, course.steps), lr=training.lr * course.rate_factor)
    watch = _Watch(best, step_budget, max(1, course.steps // LOOKS), course.patient, [before])
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
        watch.ended, watch.lowest = str(error), before  # a way that cannot be used here is passed over, as the log says
    finally:
        best.restore_()  # whoever stops a recovery, by an error or by hand, keeps the best state
    seconds = time.perf_counter() - began
    step_budget.take(watch.steps, seconds)
    after = min(best.value, watch.lowest) if best.value < before else watch.lowest
    told = (why, f"rate ×{course.rate_factor:g}" if course.rate_factor != 1 else "", watch.ended)
    # That a way costs nothing is no news where it brought nothing either.
    reason = watch.ended if watch.ended and not method.trained else "; ".join(filter(None, told))
    return Attempt(method.name, watch.steps, seconds, before, after, best.value < before, reason)
