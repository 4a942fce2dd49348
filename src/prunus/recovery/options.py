"""How to recover: a budget of steps or minutes, a way, and how training and distillation go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from prunus.errors import OptionError, nearest
from prunus.foundation.option_record import accepted_by, option_record
from prunus.recovery.recovery_method import RECOVERY_METHODS
from prunus.training.options import Decay, Rate, TrainingOptions

AUTOPILOT = "autopilot"

STEPS_WITHOUT_CLOCK = 100_000
"""Steps that a budget in minutes is never expected to reach."""


def check_method(name: str) -> None:
    """Raise OptionError unless ``name`` is ``autopilot`` or a way to recover."""
    if not isinstance(name, str) or (name != AUTOPILOT and name not in RECOVERY_METHODS):
        known = (AUTOPILOT, *RECOVERY_METHODS.names())
        raise OptionError(f"Unknown recovery method {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}.")


Minutes = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
MethodName = Annotated[str, BeforeValidator(accepted_by(check_method))]

METHOD_ALLOWED = "autopilot, or one way: statistics, refold, blocks, distil, finetune"


@option_record
class RecoveryOptions(TrainingOptions):
    """What a recovery may spend and how it learns: the options of a training, and these.

    Attributes:
        minutes: a budget of time in place of steps.
        method: ``autopilot``, or the one method to use.
        temperature: T of the softened distributions.
        soft: weight of the dense network's answers, 0 to 1; labels have the rest.
        hints: weight of the error of inner features, on top; 0 leaves them alone.
        mixed: share of the samples that are mixed with another one, 0 to 1; only the dense network knows their answers.
        dropout: factor on the network's own dropout while it recovers, 0 to 1; a short training of a smaller network
            has no use for it. None is 0, and leaves a fine-tuning that a recipe asks for without a word as it is.

    Raises:
        OptionError: an unknown name, a value out of range, or mixed samples where labels count too.
    """

    minutes: Minutes | None = Field(default=None, description="a number of minutes above 0, in place of steps, or null")
    method: MethodName = Field(default=AUTOPILOT, description=METHOD_ALLOWED)
    temperature: Rate = 2.0
    soft: Share = Field(default=0.9, description="a number from 0 (labels only) to 1 (dense network only)")
    hints: Decay = 0.0
    mixed: Share = Field(default=0.0, description="a number from 0 (none) to 1 (every sample); above 0 it needs soft 1")
    dropout: Share | None = Field(
        default=None, description="a factor from 0 (none) to 1 (as the network was trained), or null"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> RecoveryOptions:
        if self.mixed and self.soft < 1:
            raise ValueError(
                f"mixed is {self.mixed:g}, and mixed samples have no labels, and soft is {self.soft:g}; give soft 1 "
                "with it, or mixed 0"
            )
        return self

    @staticmethod
    def of(given: Mapping[str, Any] | RecoveryOptions) -> RecoveryOptions:
        """Read ``{"minutes": 10}`` or ``{"steps": 500}``, with any other option beside it.

        Where it is not given, the rate is 1e-3 with a falling cosine for the autopilot, which tries others too, and
        2.5e-3 with a rising start (``one_cycle``) for one way alone.

        Raises:
            OptionError: neither or both of minutes and steps, no steps, an unknown key, or a value out of range.

        Example:
            >>> RecoveryOptions.of({"steps": 500, "temperature": 2.0}).temperature
            2.0
        """
        if isinstance(given, RecoveryOptions):
            return given
        if not isinstance(given, Mapping):
            raise OptionError(
                f'recover is {given!r}; allowed: a mapping such as {{"steps": 500}} or {{"minutes": 10}}.'
            )
        allowed = [field.name for field in fields(RecoveryOptions)]
        for key in given:
            if key not in allowed:
                raise OptionError(
                    f"recover has no option {key!r}.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}."
                )
        if (given.get("minutes") is None) == (given.get("steps") is None):
            raise OptionError('recover takes one budget: {"steps": 500} or {"minutes": 10}; give just one of them.')
        default = _DEFAULT if given.get("method", AUTOPILOT) == AUTOPILOT or "lr" in given else _ALONE
        steps = STEPS_WITHOUT_CLOCK if given.get("steps") is None else given["steps"]
        options = replace(default, **{**given, "steps": steps})
        check_steps(options)
        return options

    def recovery(self) -> RecoveryOptions | None:
        """Return how a recipe's section recovers; None for no recovery, or plain fine-tuning by steps.

        Plain fine-tuning leaves the network's dropout as it is; whoever names a factor gets it, and held-out data
        decide.
        """
        plain = self.method == "finetune" and self.dropout is None
        if self.minutes is None and (plain or not self.steps):
            return None
        steps = self.steps if self.minutes is None else STEPS_WITHOUT_CLOCK
        return replace(self, steps=steps, dropout=self.dropout or 0.0)


_DEFAULT = RecoveryOptions(steps=1, lr=1e-3, weight_decay=0.0)
_ALONE = replace(_DEFAULT, lr=2.5e-3, schedule="one_cycle")
"""One way alone cannot try rates as the autopilot does: it takes the raised rate, and a rising start to bear it.
At the lower one a teacher's answers are not learned in a few hundred steps, and labels alone come out ahead."""


def whole_recovery(recover: Mapping[str, Any] | TrainingOptions | None) -> RecoveryOptions:
    """Return the options of a recovery from a mapping, from those of plain fine-tuning, or the defaults."""
    if isinstance(recover, RecoveryOptions):
        return recover
    if isinstance(recover, TrainingOptions):
        return RecoveryOptions(**{f.name: getattr(recover, f.name) for f in fields(TrainingOptions)}, method="finetune")
    return _DEFAULT if recover is None else RecoveryOptions.of(recover)


def check_steps(options: RecoveryOptions) -> None:
    """Raise OptionError where a recovery has no step to take."""
    if options.steps < 1:
        raise OptionError("recover has 0 steps; allowed: 1 or more. Leave recover out for no recovery.")
