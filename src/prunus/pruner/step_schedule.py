"""Where a training stands: its steps, when masks change, and what the schedule wants by then."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.data.batches import check_count
from prunus.pruner.options import PrunerOptions
from prunus.pruner.strategy import Moment
from prunus.training.schedules import kept_at


@dataclass(slots=True)
class Clock:
    """Counts optimizer steps. Masks change before steps begin + every, begin + 2·every, … and before step ``end``."""

    step: int = 0
    total: int = 0
    begin: int = 0
    end: int = 0
    every: int = 1
    schedule: str = "cubic"
    kept: float = 1.0
    last_update: int = -1

    @staticmethod
    def of(options: PrunerOptions, schedule: str, total_steps: int) -> Clock:
        """Return the clock of a training of so many steps."""
        check_count("total_steps", total_steps)
        begin, end, every = options.window(total_steps)
        return Clock(0, total_steps, begin, end, every, schedule, options.kept)

    @property
    def done(self) -> bool:
        """Whether the final level was reached."""
        return self.last_update >= self.end

    def due(self, step: int | None = None) -> bool:
        """Whether masks change before a step, by default the present one."""
        at = self.step if step is None else step
        if at >= self.total or not self.begin <= at <= self.end or at <= self.last_update:
            return False
        return at == self.end or (at > self.begin and (at - self.begin) % self.every == 0)

    def updated(self) -> None:
        """Note that the masks of this step were made."""
        self.last_update = self.step

    def moment(self, loss: float | None, lr: float) -> Moment:
        """Return the present as strategies see it."""
        span = max(1, self.end - self.begin)
        left = 0 if self.step > self.end else -(-(self.end - self.step) // self.every) + (self.step > self.begin)
        return Moment(
            step=self.step,
            t=min(1.0, max(0.0, (self.step - self.begin) / span)),
            steps_left=max(0, self.end - self.step),
            kept=kept_at(
                self.schedule,
                min(1.0, self.step / self.total),
                self.kept,
                begin=self.begin / self.total,
                end=self.end / self.total,
            ),
            updates_left=1 if self.step == self.end else left,
            loss=loss,
            update_next=self.due(self.step + 1),
            lr=lr,
        )
