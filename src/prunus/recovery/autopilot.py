"""Choose the way to recover by what pays on held-out data, and stop when nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunus.recovery.best_state import Best
from prunus.recovery.log import Leg, RecoveryReport
from prunus.recovery.options import AUTOPILOT
from prunus.recovery.recovery_method import RUNGS, Rung
from prunus.recovery.step_budget import Purse
from prunus.recovery.task import Case
from prunus.recovery.watched_training import Course, fly
from prunus.training.mask_holder import MaskHolder

TRIAL = 0.06
"""The share of the steps that each way gets to show what it pays."""
TRIAL_LEAST = 20
"""A trial of fewer steps tells nothing: the preferred way then gets them all."""
PREFERRED, EDGE = "distil", 1.25
"""The way that wins in the long run more often than short trials show, and the factor on its pay there."""
GEARS = (2.5, 1.0, 0.4)
"""Factors on the learning rate: the raised one serves most networks, the lower ones are for where it does not hold."""
FLAT = 0.002
"""A curve is flat when a leg lowered the loss by less than this share of it; the rest of the steps is then saved."""
LONG = 600
"""So many steps are halved into legs whose rate falls to zero, so that a flat curve shows between them."""
PACE_STEPS = 4
"""So many steps are timed before a budget in minutes is divided."""


def recovered_(case: Case) -> RecoveryReport:
    """Recover the model of a case in place; it is never worse on held-out data than before.

    One way alone takes all the steps. The autopilot first tries what costs no steps, then gives each training a short
    trial from the same state, goes on with the one whose loss fell most per step (per second, for a budget in
    minutes), and stops when the curve is flat.

    Raises:
        ModelError, DataError: the teacher or the labels do not fit.
        SelectorError, OptionError: a mask does not fit.
    """
    case.check()
    MaskHolder.of(case.model, case.masks).zero_weights_()
    purse = Purse(case.options.steps, case.options.minutes)
    best = Best(case)
    before = best.value
    pilot = _Pilot(case, purse, best, [])
    if case.options.method == AUTOPILOT:
        pilot.fly_all()
    else:
        pilot.fly_one(RUNGS.get(case.options.method))
    return RecoveryReport(before, pilot.best.value, purse.spent, purse.seconds, tuple(pilot.legs), case.labelled)


class _Pilot:
    """The state of a flight: the best so far, what is left to spend, and the log."""

    def __init__(self, case: Case, purse: Purse, best: Best, legs: list[Leg]) -> None:
        self.case, self.purse, self.best, self.legs = case, purse, best, legs

    def fly_one(self, rung: Rung) -> None:
        """Spend everything on one way; without labels the teacher's answers take their place."""
        unfit = rung.unfit(self.case)
        if unfit and rung.name == "finetune" and not self.case.labelled:
            self._skip(rung, f"{unfit}; the dense network's answers take their place")
            rung, unfit = RUNGS.get("distil"), RUNGS.get("distil").unfit(self.case)
        if unfit:
            self._skip(rung, unfit)
            return
        self._learn_the_pace(rung)
        self._go(Course(rung, self.purse.left if rung.trained else 0, patient=True), "the way that was asked for")

    def fly_all(self) -> None:
        """Try what is free, compare the trainings, go on with the best one, and end with what is free."""
        able = [rung for rung in map(RUNGS.get, RUNGS) if self._able(rung)]
        free, trained = [r for r in able if not r.trained], [r for r in able if r.trained]
        for rung in free:
            self._go(Course(rung), "costs no steps")
        if not trained:
            return
        self._learn_the_pace(trained[-1])
        for rung in self._by_pay(trained):
            steps = int(self.purse.left * rung.most)
            if steps < min(TRIAL_LEAST, self.case.options.steps):
                break
            self._train(rung, steps)
        for rung in free:
            if rung.name == "statistics":
                self._go(Course(rung), "once more, after training")

    def _train(self, rung: Rung, steps: int) -> None:
        """Train at a raised rate, then at lower ones: where it did not hold, and from leg to leg of a long one."""
        for gear in GEARS:
            length = steps // 2 if steps >= LONG and gear != GEARS[-1] else steps
            gained = self._go(Course(rung, length, gear), "pays most of what is left")
            steps = min(steps - length, self.purse.left) if rung.most < 1 else self.purse.left
            if steps < TRIAL_LEAST:
                return
            if 0 < gained < FLAT * abs(self.best.value):
                self._skip(rung, f"the curve is flat; {steps} steps are left")
                return

    def _by_pay(self, able: Sequence[Rung]) -> list[Rung]:
        """Order the trainings by what they pay in a short trial; the model goes on from where the best one left it."""
        preferred = [rung for rung in able if rung.name == PREFERRED] or list(able[-1:])
        steps = int(self.purse.left * TRIAL)
        if steps < TRIAL_LEAST or len(able) == 1:
            return preferred
        trials = [self._trial(Course(rung, steps, GEARS[0], patient=True)) for rung in able]
        ranked = sorted(trials, key=lambda trial: -trial.pay)
        if ranked[0].pay <= 0:
            self.legs += [trial.leg for trial in trials]
            return preferred
        self.best = ranked[0].best
        self.best.restore_()
        self.legs += [
            trial.leg if trial is ranked[0] else replace(trial.leg, kept=False, reason=f"{trial.leg.reason}; paid less")
            for trial in trials
        ]
        return [trial.course.rung for trial in ranked]

    def _trial(self, course: Course) -> _Trial:
        self.best.restore_()
        best = self.best.fork()
        leg = fly(self.case, course, best, self.purse, "trial")
        gain = (self.best.value - best.value) * (EDGE if course.rung.name == PREFERRED else 1.0)
        return _Trial(course, best, leg, gain / self.purse.price(leg.steps, leg.seconds))

    def _able(self, rung: Rung) -> bool:
        unfit = rung.unfit(self.case)
        if unfit:
            self._skip(rung, unfit)
        return not unfit

    def _learn_the_pace(self, rung: Rung) -> None:
        if self.purse.minutes is not None and rung.trained:
            self._go(Course(rung, PACE_STEPS), "to learn the pace")

    def _go(self, course: Course, why: str) -> float:
        before = self.best.value
        self.legs.append(fly(self.case, course, self.best, self.purse, why))
        return before - self.best.value

    def _skip(self, rung: Rung, why: str) -> None:
        self.legs.append(Leg(rung.name, 0, 0.0, self.best.value, self.best.value, False, why))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A short leg from the common beginning, and what it paid per step or second."""

    course: Course
    best: Best
    leg: Leg
    pay: float
