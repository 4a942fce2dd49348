"""How to recover: a budget of steps or minutes, a way, and how training and distillation go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prunus.errors import OptionError, nearest
from prunus.recovery.rung import RUNGS
from prunus.training import TrainingOptions

AUTOPILOT = "autopilot"

STEPS_WITHOUT_CLOCK = 100_000
"""Steps that a budget in minutes is never expected to reach."""

_DEFAULT = TrainingOptions(steps=1, lr=1e-3, weight_decay=0.0)


@dataclass(frozen=True, slots=True)
class Distilling:
    """How a small network learns from the dense one.

    Attributes:
        temperature: T of the softened distributions.
        soft: weight of the teacher's answers, 0 to 1; labels have the rest.
        hints: weight of the error of inner features, on top; 0 leaves them alone.

    Raises:
        OptionError: a value out of range.
    """

    temperature: float = 2.0
    soft: float = 0.9
    hints: float = 0.0

    def __post_init__(self) -> None:
        if not (_number(self.temperature) and self.temperature > 0):
            raise OptionError(f"temperature is {self.temperature!r}; allowed: a number above 0, such as 2.")
        if not (_number(self.soft) and 0 <= self.soft <= 1):
            raise OptionError(f"soft is {self.soft!r}; allowed: a number from 0 (labels only) to 1 (teacher only).")
        if not (_number(self.hints) and self.hints >= 0):
            raise OptionError(f"hints is {self.hints!r}; allowed: a number of at least 0.")


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What a recovery may spend and how it goes about it.

    Attributes:
        training: steps, rate, batch size, optimizer, loss, schedule; a budget in minutes replaces its steps.
        minutes: a budget of time in place of steps.
        method: ``autopilot``, or the one rung to use.
        distilling: how to learn from the dense network.

    Raises:
        OptionError: no steps, no time, or an unknown method.
    """

    training: TrainingOptions = field(default=_DEFAULT)
    minutes: float | None = None
    method: str = AUTOPILOT
    distilling: Distilling = field(default_factory=Distilling)

    def __post_init__(self) -> None:
        if self.training.steps < 1:
            raise OptionError("recover has 0 steps; allowed: 1 or more. Leave recover out for no recovery.")
        if self.minutes is not None and not (_number(self.minutes) and self.minutes > 0):
            raise OptionError(f"minutes is {self.minutes!r}; allowed: a number above 0, such as 10.")
        check_method(self.method)

    @staticmethod
    def of(given: Mapping[str, Any] | RecoveryOptions) -> RecoveryOptions:
        """Read ``{"minutes": 10}`` or ``{"steps": 500}``, with any other option beside it.

        Raises:
            OptionError: neither or both of minutes and steps, an unknown key, or a value out of range.

        Example:
            >>> RecoveryOptions.of({"steps": 500, "temperature": 2.0}).distilling.temperature
            2.0
        """
        if isinstance(given, RecoveryOptions):
            return given
        if not isinstance(given, Mapping):
            raise OptionError(
                f'recover is {given!r}; allowed: a mapping such as {{"steps": 500}} or {{"minutes": 10}}.'
            )
        training, soft = [f.name for f in fields(TrainingOptions)], [f.name for f in fields(Distilling)]
        allowed = ("minutes", "method", *training, *soft)
        for key in given:
            if key not in allowed:
                raise OptionError(
                    f"recover has no option {key!r}.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}."
                )
        if (given.get("minutes") is None) == (given.get("steps") is None):
            raise OptionError('recover takes one budget: {"steps": 500} or {"minutes": 10}; give just one of them.')
        steps = STEPS_WITHOUT_CLOCK if given.get("steps") is None else given["steps"]
        return RecoveryOptions(
            replace(_DEFAULT, **({k: given[k] for k in training if k in given} | {"steps": steps})),
            given.get("minutes"),
            given.get("method", AUTOPILOT),
            Distilling(**{k: given[k] for k in soft if k in given}),
        )


def check_method(name: str) -> None:
    """Raise OptionError unless ``name`` is ``autopilot`` or a way to recover."""
    if name != AUTOPILOT and name not in RUNGS:
        known = (AUTOPILOT, *RUNGS.names())
        raise OptionError(f"Unknown recovery method {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
