"""Choose the way to recover by what pays on held-out data, and stop when nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunus.recovery.best_state import Best
from prunus.recovery.log import Attempt, RecoveryReport
from prunus.recovery.options import AUTOPILOT
from prunus.recovery.recovery_method import RECOVERY_METHODS, RecoveryMethod
from prunus.recovery.step_budget import StepBudget
from prunus.recovery.task import RecoveryTask
from prunus.recovery.watched_training import Course, watched_training
from prunus.training.mask_holder import MaskHolder

TRIAL = 0.06
"""The share of the steps that each way gets to show what it pays."""
TRIAL_LEAST = 20
"""A trial of fewer steps tells nothing: the preferred way then gets them all."""
PREFERRED, EDGE = "distil", 1.25
"""The way that wins in the long run more often than short trials show, and the factor on its pay there."""
RATE_FACTORS = (2.5, 1.0, 0.4)
"""Factors on the learning rate: the raised one serves most networks, the lower ones are for where it does not hold."""
FLAT = 0.002
"""A curve is flat when an attempt lowers the loss by less than this share; the remaining steps are then saved."""
LONG = 600
"""So many steps are halved into attempts whose rate falls to zero, so that a flat curve shows between them."""
PACE_STEPS = 4
"""So many steps are timed before a budget in minutes is divided."""


def recovered_(task: RecoveryTask) -> RecoveryReport:
    """Recover the model of a task in place; it is never worse on held-out data than before.

    One way alone takes all the steps. The autopilot first tries what costs no steps, then gives each training a short
    trial from the same state, goes on with the one whose loss fell most per step (per second, for a budget in
    minutes), and stops when the curve is flat.

    Raises:
        ModelError, DataError: the teacher or the labels do not fit.
        SelectorError, OptionError: a mask does not fit.
    """
    task.check()
    MaskHolder.of(task.model, task.masks).zero_weights_()
    step_budget = StepBudget(task.options.steps, task.options.minutes)
    best = Best(task)
    before = best.value
    pilot = _Pilot(task, step_budget, best, [])
    if task.options.method == AUTOPILOT:
        pilot.run_all()
    else:
        pilot.run_one(RECOVERY_METHODS.get(task.options.method))
    return RecoveryReport(
        before, pilot.best.value, step_budget.spent, step_budget.seconds, tuple(pilot.attempts), task.labelled
    )


class _Pilot:
    """The state of a flight: the best so far, what is left to spend, and the log."""

    def __init__(self, task: RecoveryTask, step_budget: StepBudget, best: Best, attempts: list[Attempt]) -> None:
        self.task, self.step_budget, self.best, self.attempts = task, step_budget, best, attempts

    def run_one(self, method: RecoveryMethod) -> None:
        """Spend everything on one way; without labels the teacher's answers take their place."""
        unfit = method.unfit(self.task)
        if unfit and method.name == "finetune" and not self.task.labelled:
            self._skip(method, f"{unfit}; the dense network's answers take their place")
            method, unfit = RECOVERY_METHODS.get("distil"), RECOVERY_METHODS.get("distil").unfit(self.task)
        if unfit:
            self._skip(method, unfit)
            return
        self._learn_the_pace(method)
        self._go(
            Course(method, self.step_budget.left if method.trained else 0, patient=True), "the way that was asked for"
        )

    def run_all(self) -> None:
        """Try what is free, compare the trainings, go on with the best one, and end with what is free."""
        able = [method for method in map(RECOVERY_METHODS.get, RECOVERY_METHODS) if self._able(method)]
        free, trained = [r for r in able if not r.trained], [r for r in able if r.trained]
        for method in free:
            self._go(Course(method), "costs no steps")
        if not trained:
            return
        self._learn_the_pace(trained[-1])
        for method in self._by_pay(trained):
            steps = int(self.step_budget.left * method.most)
            if steps < min(TRIAL_LEAST, self.task.options.steps):
                break
            self._train(method, steps)
        for method in free:
            if method.name == "statistics":
                self._go(Course(method), "once more, after training")

    def _train(self, method: RecoveryMethod, steps: int) -> None:
        """Train at a raised rate, then at lower ones where it fails or when a long training goes on."""
        for rate_factor in RATE_FACTORS:
            length = steps // 2 if steps >= LONG and rate_factor != RATE_FACTORS[-1] else steps
            gained = self._go(Course(method, length, rate_factor), "pays most of what is left")
            steps = min(steps - length, self.step_budget.left) if method.most < 1 else self.step_budget.left
            if steps < TRIAL_LEAST:
                return
            if 0 < gained < FLAT * abs(self.best.value):
                self._skip(method, f"the curve is flat; {steps} steps are left")
                return

    def _by_pay(self, able: Sequence[RecoveryMethod]) -> list[RecoveryMethod]:
        """Order the trainings by what they pay in a short trial; the model goes on from where the best one left it."""
        preferred = [method for method in able if method.name == PREFERRED] or list(able[-1:])
        steps = int(self.step_budget.left * TRIAL)
        if steps < TRIAL_LEAST or len(able) == 1:
            return preferred
        trials = [self._trial(Course(method, steps, RATE_FACTORS[0], patient=True)) for method in able]
        ranked = sorted(trials, key=lambda trial: -trial.pay)
        if ranked[0].pay <= 0:
            self.attempts += [trial.attempt for trial in trials]
            return preferred
        self.best = ranked[0].best
        self.best.restore_()
        self.attempts += [
            trial.attempt
            if trial is ranked[0]
            else replace(trial.attempt, kept=False, reason=f"{trial.attempt.reason}; paid less")
            for trial in trials
        ]
        return [trial.course.method for trial in ranked]

    def _trial(self, course: Course) -> _Trial:
        self.best.restore_()
        best = self.best.fork()
        attempt = watched_training(self.task, course, best, self.step_budget, "trial")
        gain = (self.best.value - best.value) * (EDGE if course.method.name == PREFERRED else 1.0)
        return _Trial(course, best, attempt, gain / self.step_budget.price(attempt.steps, attempt.seconds))

    def _able(self, method: RecoveryMethod) -> bool:
        unfit = method.unfit(self.task)
        if unfit:
            self._skip(method, unfit)
        return not unfit

    def _learn_the_pace(self, method: RecoveryMethod) -> None:
        if self.step_budget.minutes is not None and method.trained:
            self._go(Course(method, PACE_STEPS), "to learn the pace")

    def _go(self, course: Course, why: str) -> float:
        before = self.best.value
        self.attempts.append(watched_training(self.task, course, self.best, self.step_budget, why))
        return before - self.best.value

    def _skip(self, method: RecoveryMethod, why: str) -> None:
        self.attempts.append(Attempt(method.name, 0, 0.0, self.best.value, self.best.value, False, why))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A short attempt from the common beginning, and what it paid per step or second."""

    course: Course
    best: Best
    attempt: Attempt
    pay: float
