"""The autopilot: it chooses recovery methods by their gain on held-out data, and stops when none gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunus.recovery.log import Attempt, RecoveryReport
from prunus.recovery.method_names import AUTOPILOT
from prunus.recovery.recovery_method import RECOVERY_METHODS, RecoveryMethod
from prunus.recovery.step_budget import StepBudget
from prunus.recovery.task import RecoveryTask
from prunus.recovery.watched_training import AttemptSettings, BestState, watched_training
from prunus.training.mask_holder import MaskHolder

TRIAL = 0.06
"""The share of the steps that each method gets for its trial."""
TRIAL_LEAST = 20
"""The least steps of a trial; where it would have fewer, the preferred method gets all steps."""
PREFERRED, EDGE = "distil", 1.25
"""The method that wins long trainings more often than short trials show, and the factor on its gain in trials."""
RATE_FACTORS = (2.5, 1.0, 0.4)
"""Factors on the learning rate: the raised one suits most networks, the lower ones follow where it diverges."""
FLAT = 0.002
"""The loss curve is flat when an attempt lowers it by less than this share; the remaining steps are then saved."""
LONG = 600
"""Trainings of at least so many steps are divided into attempts with falling rates, so a flat curve shows early."""
PACE_STEPS = 4
"""Steps that are timed before a budget in minutes is divided."""


def recovered_(task: RecoveryTask) -> RecoveryReport:
    """Recover the model of a task in place; it is never worse on held-out data than before.

    A single method takes all the steps. The autopilot first tries the methods without steps, then gives each training
    a short trial from the same state, continues with the one whose loss fell most per step (per second, for a budget
    in minutes), and stops when the curve is flat.

    Raises:
        ModelError, DataError: the teacher or the labels do not fit.
        SelectorError, OptionError: a mask does not fit.
    """
    task.check()
    MaskHolder.of(task.model, task.masks).zero_weights_()
    step_budget = StepBudget(task.options.steps, task.options.minutes)
    best = BestState(task)
    before = best.value
    recovery = _Recovery(task, step_budget, best, [])
    if task.options.method == AUTOPILOT:
        recovery.run_all()
    else:
        recovery.run_one(RECOVERY_METHODS.get(task.options.method))
    return RecoveryReport(
        before, recovery.best.value, step_budget.spent, step_budget.seconds, tuple(recovery.attempts), task.labelled
    )


class _Recovery:
    """A recovery in progress: the best state so far, the budget left, and the attempts."""

    def __init__(self, task: RecoveryTask, step_budget: StepBudget, best: BestState, attempts: list[Attempt]) -> None:
        self.task, self.step_budget, self.best, self.attempts = task, step_budget, best, attempts

    def run_one(self, method: RecoveryMethod) -> None:
        """Spend all steps on one method; without labels ``distil`` takes the place of ``finetune``."""
        unfit = method.unfit(self.task)
        if unfit and method.name == "finetune" and not self.task.labelled:
            self._skip(method, f"{unfit}; the dense network's answers take their place")
            method, unfit = RECOVERY_METHODS.get("distil"), RECOVERY_METHODS.get("distil").unfit(self.task)
        if unfit:
            self._skip(method, unfit)
            return
        self._time_steps(method)
        self._attempt(
            AttemptSettings(method, self.step_budget.left if method.trained else 0, patient=True),
            "the requested method",
        )

    def run_all(self) -> None:
        """Run the methods without steps, compare the trainings, continue with the best, and redo the statistics."""
        usable = [method for method in map(RECOVERY_METHODS.get, RECOVERY_METHODS) if self._usable(method)]
        free, trained = [m for m in usable if not m.trained], [m for m in usable if m.trained]
        for method in free:
            self._attempt(AttemptSettings(method), "costs no steps")
        if not trained:
            return
        self._time_steps(trained[-1])
        # A budget of minutes may have time for fewer steps than a trial: they are spent all the same.
        least = min(TRIAL_LEAST, max(1, self.step_budget.left))
        for method in self._by_gain(trained):
            steps = int(self.step_budget.left * method.most)
            if steps < least:
                break
            self._train(method, steps)
        for method in free:
            if method.name == "statistics":
                self._attempt(AttemptSettings(method), "once more, after training")

    def _train(self, method: RecoveryMethod, steps: int) -> None:
        """Train at a raised rate, then at lower ones where it fails or where a long training continues."""
        for rate_factor in RATE_FACTORS:
            length = steps // 2 if steps >= LONG and rate_factor != RATE_FACTORS[-1] else steps
            gained = self._attempt(AttemptSettings(method, length, rate_factor), "pays most of what is left")
            steps = min(steps - length, self.step_budget.left) if method.most < 1 else self.step_budget.left
            if steps < TRIAL_LEAST:
                return
            if 0 < gained < FLAT * abs(self.best.value):
                self._skip(method, f"the curve is flat; {steps} steps are left")
                return

    def _by_gain(self, methods: Sequence[RecoveryMethod]) -> list[RecoveryMethod]:
        """Order the trainings by their gain in a short trial; the model continues from the state of the best one."""
        preferred = [method for method in methods if method.name == PREFERRED] or list(methods[-1:])
        steps = int(self.step_budget.left * TRIAL)
        if steps < TRIAL_LEAST or len(methods) == 1:
            return preferred
        trials = [self._trial(AttemptSettings(method, steps, RATE_FACTORS[0], patient=True)) for method in methods]
        ranked = sorted(trials, key=lambda trial: -trial.gain)
        if ranked[0].gain <= 0:
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
        return [trial.settings.method for trial in ranked]

    def _trial(self, settings: AttemptSettings) -> _Trial:
        self.best.restore_()
        best = self.best.fork()
        attempt = watched_training(self.task, settings, best, self.step_budget, "trial")
        gain = (self.best.value - best.value) * (EDGE if settings.method.name == PREFERRED else 1.0)
        return _Trial(settings, best, attempt, gain / self.step_budget.price(attempt.steps, attempt.seconds))

    def _usable(self, method: RecoveryMethod) -> bool:
        unfit = method.unfit(self.task)
        if unfit:
            self._skip(method, unfit)
        return not unfit

    def _time_steps(self, method: RecoveryMethod) -> None:
        if self.step_budget.minutes is not None and method.trained:
            self._attempt(AttemptSettings(method, PACE_STEPS), "to learn the pace")

    def _attempt(self, settings: AttemptSettings, why: str) -> float:
        before = self.best.value
        self.attempts.append(watched_training(self.task, settings, self.best, self.step_budget, why))
        return before - self.best.value

    def _skip(self, method: RecoveryMethod, why: str) -> None:
        self.attempts.append(Attempt(method.name, 0, 0.0, self.best.value, self.best.value, False, why))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A short attempt from the common state, with its gain per step or second."""

    settings: AttemptSettings
    best: BestState
    attempt: Attempt
    gain: float
