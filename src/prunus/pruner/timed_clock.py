"""The clock of a pruning whose training has a number of minutes in place of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prunus.errors import OptionError
from prunus.foundation.clock import TimeLimit
from prunus.pruner.options import UPDATES, Clock, Moment, PrunerOptions
from prunus.training.schedules import RAMP, kept_at


@dataclass(slots=True)
class TimedClock(Clock):
    """A clock that changes masks at equal times: ``changes`` of them until the share ``final`` of the minutes is spent.

    The time is read once in each step, after the optimizer. Strategies have to know one step ahead that the masks will
    change, so a change follows one step after its time has come. Where the time is over before that, `overdue` holds.

    Attributes:
        limit: the time of the training.
        final: the share of the time at which the final level is reached.
        changes: how often masks change.
    """

    limit: TimeLimit = field(default_factory=lambda: TimeLimit(1.0))
    final: float = RAMP
    changes: int = UPDATES
    _now: float = 0.0
    _ahead: float = 0.0

    @staticmethod
    def within(
        options: PrunerOptions, schedule: str, limit: TimeLimit, final: float = RAMP, changes: int = UPDATES
    ) -> TimedClock:
        """Return the clock of a training with this time.

        Raises:
            OptionError: the options give steps, which a time does not know.
        """
        for name, nothing in (("every", None), ("begin_step", 0), ("end_step", None)):
            value = getattr(options, name)
            if value != nothing:
                raise OptionError(
                    f"{name} is {value}, a number of steps, and the training has minutes: {limit.minutes:g}; leave one "
                    "of the two out."
                )
        return TimedClock(schedule=schedule, kept=options.kept, limit=limit, final=final, changes=changes)

    @property
    def done(self) -> bool:
        """Return whether the final level was reached."""
        return self.updates >= self.changes

    @property
    def overdue(self) -> bool:
        """Return whether the time is over and the final level was not reached."""
        return self.limit.over and not self.done

    def due(self, step: int | None = None) -> bool:
        """Return whether masks change before a step, by default the present one; the next one at most is known."""
        return self._reached(self._now if step in (None, self.step) else self._ahead) > self.updates

    def go_on_from(self, stored: Clock) -> None:
        """Continue a stored training at its step, with the time that is left."""
        self.step, self.last_update = stored.step, stored.last_update
        self.limit.resume(stored.spent)
        self._now = self._ahead = self.limit.share
        self.updates = stored.updates

    def advance(self) -> None:
        """Count a step, and read the time."""
        self.step += 1
        self._now, self._ahead = self._ahead, self.limit.share

    def updated(self) -> None:
        """Note that the masks changed at this step; where the time is over, to the final level."""
        if self.overdue:
            self._now = self._ahead = 1.0
        self.last_update, self.updates = self.step, self._reached(self._now)

    def moment(self, loss: float | None, lr: float) -> Moment:
        """Return the present step as strategies see it; the steps that are left are estimated from those so far."""
        share = 1.0 if self.overdue else self._now
        reached = self._reached(share)
        left = max(0.0, self.final - share)
        return Moment(
            step=self.step,
            t=min(1.0, share / self.final),
            steps_left=round(self.step * left / share) if share and left else 0,
            kept=kept_at(self.schedule, share, self.kept, end=self.final),
            updates_left=self.changes - reached + (reached > self.updates),
            loss=loss,
            update_next=self._reached(self._ahead) > max(self.updates, reached),
            lr=lr,
        )

    def _reached(self, share: float) -> int:
        """Return the number of changes that belong to a share of the time."""
        # The quotient of a share that is exactly the final one may round below 1.
        return self.changes if share >= self.final else int(self.changes * share / self.final)


def clock_of(
    options: PrunerOptions,
    schedule: str,
    total_steps: int | None,
    minutes: float | TimeLimit | None,
    final: float,
    changes: int = UPDATES,
) -> Clock:
    """Return the clock of a training with a number of steps or of minutes.

    Raises:
        OptionError: both or neither, or as `Clock.of` and `TimedClock.within`.
    """
    if (total_steps is None) == (minutes is None):
        given = "neither" if minutes is None else f"total_steps {total_steps} and minutes {minutes}"
        raise OptionError(f"a training has total_steps or minutes; got {given}. Give just one of them.")
    if minutes is None:
        assert total_steps is not None
        return Clock.of(options, schedule, total_steps, changes)
    limit = minutes if isinstance(minutes, TimeLimit) else TimeLimit(minutes)
    return TimedClock.within(options, schedule, limit, final, changes)


def stored_clock(state: Mapping[str, Any]) -> Clock:
    """Return the counts in the state of a pruner, from which another clock goes on."""
    spent, updates = float(state.get("seconds", 0.0)), int(state.get("updates", 0))
    last = int(state["last_update"])
    return Clock(int(state["step"]), int(state["total_steps"]), last_update=last, spent=spent, updates=updates)


def clock_state(clock: Clock) -> dict[str, float]:
    """Return the counts of a clock for the state of a pruner."""
    state: dict[str, float] = {"step": clock.step, "total_steps": clock.total, "last_update": clock.last_update}
    if isinstance(clock, TimedClock):
        state |= {"seconds": clock.limit.spent, "updates": clock.updates}
    return state
