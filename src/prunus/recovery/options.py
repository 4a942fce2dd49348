"""How to recover: a budget of steps or minutes, a way, and how training and distillation go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from prunus.errors import OptionError, nearest
from prunus.recovery.rung import RUNGS
from prunus.training import TrainingOptions
from prunus.training.options import is_number

AUTOPILOT = "autopilot"

STEPS_WITHOUT_CLOCK = 100_000
"""Steps that a budget in minutes is never expected to reach."""

_DEFAULT = TrainingOptions(steps=1, lr=1e-3, weight_decay=0.0)
_ALONE = replace(_DEFAULT, lr=2.5e-3, schedule="one_cycle")
"""One way alone cannot try rates as the autopilot does: it takes the raised rate, and a rising start to bear it.
At the lower one a teacher's answers are not learned in a few hundred steps, and labels alone come out ahead."""


@dataclass(frozen=True, slots=True)
class Distilling:
    """How a small network learns from the dense one.

    Attributes:
        temperature: T of the softened distributions.
        soft: weight of the teacher's answers, 0 to 1; labels have the rest.
        hints: weight of the error of inner features, on top; 0 leaves them alone.
        mixed: share of the samples that are mixed with another one, 0 to 1; only the teacher knows their answers.

    Raises:
        OptionError: a value out of range, or mixed samples where labels count too.
    """

    temperature: float = 2.0
    soft: float = 0.9
    hints: float = 0.0
    mixed: float = 0.0

    def __post_init__(self) -> None:
        if not (is_number(self.temperature) and self.temperature > 0):
            raise OptionError(f"temperature is {self.temperature!r}; allowed: a number above 0, such as 2.")
        if not (is_number(self.soft) and 0 <= self.soft <= 1):
            raise OptionError(f"soft is {self.soft!r}; allowed: a number from 0 (labels only) to 1 (teacher only).")
        if not (is_number(self.hints) and self.hints >= 0):
            raise OptionError(f"hints is {self.hints!r}; allowed: a number of at least 0.")
        if not (is_number(self.mixed) and 0 <= self.mixed <= 1):
            raise OptionError(f"mixed is {self.mixed!r}; allowed: a number from 0 (none) to 1 (every sample).")
        if self.mixed and self.soft < 1:
            raise OptionError(f"mixed samples have no labels, and soft is {self.soft:g}; give soft 1, or mixed 0.")


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What a recovery may spend and how it goes about it.

    Attributes:
        training: steps, rate, batch size, optimizer, loss, schedule; a budget in minutes replaces its steps.
        minutes: a budget of time in place of steps.
        method: ``autopilot``, or the one rung to use.
        distilling: how to learn from the dense network.
        dropout: factor on the network's own dropout while it recovers, 0 to 1; a short training of a smaller network
            has no use for it.

    Raises:
        OptionError: no steps, no time, an unknown method, or a factor out of range.
    """

    training: TrainingOptions = field(default=_DEFAULT)
    minutes: float | None = None
    method: str = AUTOPILOT
    distilling: Distilling = field(default_factory=Distilling)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.training.steps < 1:
            raise OptionError("recover has 0 steps; allowed: 1 or more. Leave recover out for no recovery.")
        if self.minutes is not None and not (is_number(self.minutes) and self.minutes > 0):
            raise OptionError(f"minutes is {self.minutes!r}; allowed: a number above 0, such as 10.")
        if not (is_number(self.dropout) and 0 <= self.dropout <= 1):
            raise OptionError(f"dropout is {self.dropout!r}; allowed: a factor from 0 (none) to 1 (as it was trained).")
        check_method(self.method)

    @staticmethod
    def of(given: Mapping[str, Any] | RecoveryOptions) -> RecoveryOptions:
        """Read ``{"minutes": 10}`` or ``{"steps": 500}``, with any other option beside it.

        Where it is not given, the rate is 1e-3 with a falling cosine for the autopilot, which tries others too, and
        2.5e-3 with a rising start (``one_cycle``) for one way alone.

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
        allowed = ("minutes", "method", "dropout", *training, *soft)
        for key in given:
            if key not in allowed:
                raise OptionError(
                    f"recover has no option {key!r}.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}."
                )
        if (given.get("minutes") is None) == (given.get("steps") is None):
            raise OptionError('recover takes one budget: {"steps": 500} or {"minutes": 10}; give just one of them.')
        steps = STEPS_WITHOUT_CLOCK if given.get("steps") is None else given["steps"]
        method = given.get("method", AUTOPILOT)
        default = _DEFAULT if method == AUTOPILOT or "lr" in given else _ALONE
        return RecoveryOptions(
            replace(default, **({k: given[k] for k in training if k in given} | {"steps": steps})),
            given.get("minutes"),
            method,
            Distilling(**{k: given[k] for k in soft if k in given}),
            given.get("dropout", 0.0),
        )


def check_method(name: str) -> None:
    """Raise OptionError unless ``name`` is ``autopilot`` or a way to recover."""
    if not isinstance(name, str) or (name != AUTOPILOT and name not in RUNGS):
        known = (AUTOPILOT, *RUNGS.names())
        raise OptionError(f"Unknown recovery method {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")
