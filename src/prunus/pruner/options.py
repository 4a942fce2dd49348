"""The options of a `Pruner`, one strict record for every training loop, and the steps at which its masks change."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prunus.analysis.analyse import check_config_ties
from prunus.budget import ALLOCATORS
from prunus.budget.limits import LATENCY, METRICS
from prunus.criteria import CriterionLike, canonical, criterion_name
from prunus.data.batches import check_count
from prunus.errors import OptionError, nearest
from prunus.foundation.defaults import DEFAULTS
from prunus.training.schedules import KEPT_SCHEDULES, RAMP, check_fraction, kept_at

CUTS = ("never", "final")
UPDATES = 20
"""The number of changes of the masks where ``every`` is not given."""


@dataclass(frozen=True, slots=True)
class PrunerOptions:
    """The options of pruning while a network trains.

    Attributes:
        kept: the share left in the end: of the prunable weights, or of ``metric`` where units or branches are removed.
        method: a name of STRATEGIES, such as gradual, gradient-threshold, units or key-path.
        schedule: a name of KEPT_SCHEDULES; None takes the method's own, cubic for most.
        every: steps between two changes of the masks; None makes about twenty changes.
        begin_step: the first step that may prune.
        end_step: the step from which the final level holds; None is two thirds of the training.
        criterion: how weights or units are scored: a name, a mapping from names to weights, or a plain function,
            (name, weight) → scores for weights, (group) → scores for units; None takes the method's own.
        pattern: windows that are masked whole: "2:4", "tile:4x4", "strip:8", "kernel"; None for single weights.
        metric: params, macs or bytes; for units and branches.
        allocator: how the budget is divided between axes, for units.
        ignore: globs of parameters or modules that stay whole.
        cut: "final" removes units and branches for good, with the optimizer, once the final level is reached;
            "never" leaves them at zero.
        config_ties: for a Hugging Face model: remove units so that its config alone describes the cut network, which
            then gets the new numbers, as in `prunus.prune`.
        settings: the settings of the method, by name.
        seed: the seed of criteria that draw random numbers.

    Raises:
        OptionError: a value outside its range or of another type, or an unknown name.
    """

    kept: float
    method: str = "gradual"
    schedule: str | None = None
    every: int | None = None
    begin_step: int = 0
    end_step: int | None = None
    criterion: CriterionLike | None = None
    pattern: str | None = None
    metric: str = "params"
    allocator: str = "uniform"
    ignore: tuple[str, ...] = ()
    cut: str = "never"
    config_ties: bool = DEFAULTS.config_ties
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "criterion", canonical(self.criterion))
        check_fraction("kept", self.kept)
        if self.schedule is not None:
            KEPT_SCHEDULES.get(self.schedule)
        if self.every is not None:
            check_count("every", self.every)
        check_count("begin_step", self.begin_step, least=0)
        if self.end_step is not None:
            check_count("end_step", self.end_step, least=self.begin_step)
        check_count("seed", self.seed, least=0)
        ALLOCATORS.get(self.allocator)
        _check_member("metric", self.metric, [metric for metric in METRICS if metric != LATENCY])
        _check_member("cut", self.cut, CUTS)
        check_config_ties(self.config_ties, "keep")
        if not isinstance(self.ignore, tuple) or not all(isinstance(pattern, str) for pattern in self.ignore):
            raise OptionError(f"ignore is {self.ignore!r}; allowed: a tuple of globs such as ('head.*',).")
        if not isinstance(self.settings, Mapping):
            raise OptionError(f"settings is {self.settings!r}; allowed: a mapping such as {{'fraction': 0.3}}.")

    def window(self, total_steps: int, changes: int = UPDATES) -> tuple[int, int, int]:
        """Return (first step, step of the final level, steps between changes) in a training of so many steps.

        Args:
            total_steps: the length of the training.
            changes: the number of changes where ``every`` is not given.

        Raises:
            OptionError: the schedule would end after the training does.
        """
        end = math.ceil(RAMP * total_steps) if self.end_step is None else self.end_step
        if end > total_steps or self.begin_step > end:
            raise OptionError(
                f"the schedule runs from step {self.begin_step} to step {end}, the training has {total_steps} steps; "
                "allowed is an end within the training. Train longer, or lower begin_step and end_step."
            )
        return self.begin_step, end, self.every or max(1, (end - self.begin_step) // changes)

    def describe(self) -> dict[str, Any]:
        """Return the options as JSON types; equal options give equal descriptions."""
        named = None if self.criterion is None else criterion_name(self.criterion)
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self), "criterion": named}, sort_keys=True))
        if not self.config_ties:  # an option that states stored by earlier versions do not name
            found.pop("config_ties")
        return found


def _check_member(name: str, value: str, allowed: tuple[str, ...] | list[str]) -> None:
    if value not in allowed:
        raise OptionError(f"{name} is {value!r}.{nearest(str(value), allowed)} Allowed: {', '.join(allowed)}.")


def options_of(given: Mapping[str, Any]) -> PrunerOptions:
    """Build options from a mapping, such as a section of a recipe.

    Raises:
        OptionError: an unknown key, or a value outside its range.
    """
    known = [f.name for f in fields(PrunerOptions)]
    if not isinstance(given, Mapping):
        raise OptionError(
            f"a pruner's options are {given!r}; allowed: PrunerOptions, or a mapping such as {{'kept': 0.5}}."
        )
    for name in given:
        if name not in known:
            raise OptionError(
                f"a pruner has no option {name!r}.{nearest(str(name), known)} Allowed: {', '.join(known)}."
            )
    if "kept" not in given:
        raise OptionError("a pruner needs kept, the share that is left in the end, such as 0.5.")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return PrunerOptions(**values)


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of the training, as strategies see it.

    Attributes:
        step: the number of optimizer steps taken.
        t: progress inside the pruning: 0 at its first step, 1 from its last on.
        steps_left: optimizer steps until the final level.
        kept: the share that the schedule keeps now.
        updates_left: changes of the masks still to come, this one included; 0 after the last.
        loss: the loss of the last step, if the loop reports it.
        update_next: whether the masks change before the next step.
        lr: the learning rate of the first group.
    """

    step: int
    t: float
    steps_left: int
    kept: float
    updates_left: int
    loss: float | None = None
    update_next: bool = False
    lr: float = 0.0

    @property
    def final(self) -> bool:
        """Return whether the final level has to be met now."""
        return self.updates_left <= 1


@dataclass(frozen=True, slots=True)
class PrunerReport:
    """The result of a pruning: steps seen, the kept share, and whether the final level was reached."""

    steps: int
    kept: float
    reached: bool


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
    spent: float = 0.0
    """Seconds of a stored training whose length is in minutes."""
    updates: int = 0
    """Changes of the masks in such a training."""

    @staticmethod
    def of(options: PrunerOptions, schedule: str, total_steps: int, changes: int = UPDATES) -> Clock:
        """Return the clock of a training with this number of steps, and of changes where the options leave it open."""
        check_count("total_steps", total_steps)
        begin, end, every = options.window(total_steps, changes)
        return Clock(0, total_steps, begin, end, every, schedule, options.kept)

    @property
    def done(self) -> bool:
        """Return whether the final level was reached."""
        return self.last_update >= self.end

    @property
    def overdue(self) -> bool:
        """Return whether the training is over and the final level, due at its very end, was not reached."""
        return self.step >= self.total and self.end == self.total and not self.done

    def due(self, step: int | None = None) -> bool:
        """Return whether masks change before a step, by default the present one."""
        at = self.step if step is None else step
        if at >= self.total or not self.begin <= at <= self.end or at <= self.last_update:
            return False
        return at == self.end or (at > self.begin and (at - self.begin) % self.every == 0)

    def go_on_from(self, stored: Clock) -> None:
        """Continue a stored training at its step; if it was complete, only its masks are used and the steps begin anew.

        Raises:
            OptionError: the stored training is not complete and has another number of steps.
        """
        if stored.total == self.total:
            self.step, self.last_update = stored.step, stored.last_update
        elif stored.step < stored.total:
            raise OptionError(
                f"the stored training stands at step {stored.step} of {stored.total}, this one has {self.total} "
                "steps: its schedule would bend. Give as many total_steps, or begin anew."
            )

    def advance(self) -> None:
        """Count a step."""
        self.step += 1

    def updated(self) -> None:
        """Note that the masks changed at this step."""
        self.last_update = self.step

    def moment(self, loss: float | None, lr: float) -> Moment:
        """Return the present step as strategies see it."""
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
