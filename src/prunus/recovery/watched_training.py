"""One leg of a recovery: a way is tried, watched on held-out data, and the best state kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from prunus.errors import OutcomeError, UsageError
from prunus.recovery.best_state import Best
from prunus.recovery.log import Leg
from prunus.recovery.recovery_method import Rung
from prunus.recovery.step_budget import Purse
from prunus.recovery.task import Case

LOOKS = 8
"""How often a leg looks at the held-out data."""
PATIENCE = 3
"""A leg has so many looks to bring something before it may be called lost."""
LOST = 4.0
"""It is lost where it brought nothing and the loss stands so many times as high as it began. From five eighths of its
steps on once is enough: the falling rate brings its gain late, but not that late."""


@dataclass(slots=True)
class _Watch:
    """Looks at held-out data now and then, and ends a leg that is lost or out of time."""

    best: Best
    purse: Purse
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
        if self.purse.out_of_time:
            self.ended = "the time is over"
        return bool(self.ended) and done < steps


@dataclass(frozen=True, slots=True)
class Course:
    """How a leg is flown.

    Attributes:
        rung: the way.
        steps: how many; ways that take none ignore it.
        gear: factor on the learning rate.
        patient: do not end early, whatever the loss does.
    """

    rung: Rung
    steps: int = 0
    gear: float = 1.0
    patient: bool = False


def fly(case: Case, course: Course, best: Best, purse: Purse, why: str) -> Leg:
    """Try a way; the model ends in the best state seen, which may be the one it began with, even after an error.

    Args:
        case: whose model is changed.
        course: which way, how far, how fast.
        best: the best state so far; carried on.
        purse: what is booked, and ends the leg when the time is over.
        why: for the log.
    """
    began, before = time.perf_counter(), best.value
    rung, training = course.rung, case.options.options()
    options = replace(training, steps=max(1, course.steps), lr=training.lr * course.gear)
    watch = _Watch(best, purse, max(1, course.steps // LOOKS), course.patient, [before])
    try:
        rung.run(case, options, watch)
        if not rung.trained:
            watch.lowest = best.offer()
            watch.ended = "it changed nothing" if watch.lowest == before else ""
    except OutcomeError as error:
        watch.ended = str(error).split(";")[0]
    except UsageError as error:
        if rung.trained:
            raise
        watch.ended, watch.lowest = str(error), before  # a way that cannot be used here is passed over, as the log says
    finally:
        best.restore_()  # whoever stops a recovery, by an error or by hand, keeps the best state
    seconds = time.perf_counter() - began
    purse.take(watch.steps, seconds)
    after = min(best.value, watch.lowest) if best.value < before else watch.lowest
    told = (why, f"rate ×{course.gear:g}" if course.gear != 1 else "", watch.ended)
    # That a way costs nothing is no news where it brought nothing either.
    reason = watch.ended if watch.ended and not rung.trained else "; ".join(filter(None, told))
    return Leg(rung.name, watch.steps, seconds, before, after, best.value < before, reason)
