"""The options of a recovery: a budget of steps or minutes, a method, and the settings of training and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from prunus.errors import OptionError, nearest
from prunus.foundation.clock import NO_LIMIT
from prunus.foundation.option_record import accepted_by, option_record
from prunus.recovery.method_names import AUTOPILOT, METHOD_ALLOWED, check_method
from prunus.training.options import Decay, Rate, TrainingOptions

Minutes = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
MethodName = Annotated[str, BeforeValidator(accepted_by(check_method))]


@option_record
class RecoveryOptions(TrainingOptions):
    """Budget and learning options of a recovery: those of a training, and these.

    Attributes:
        minutes: a budget of time in place of steps.
        method: ``autopilot``, or the one method to use.
        temperature: T of the softened distributions.
        soft: weight of the dense network's outputs in the loss, 0 to 1; labels have the rest.
        hints: weight of an additional loss on inner features; 0 leaves it out.
        mixed: share of the samples that are mixed with another one, 0 to 1; the dense network gives their targets.
        dropout: factor on the network's own dropout during recovery, 0 to 1. None means 0, except for a recipe's plain
            fine-tuning, which keeps the network's dropout.

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

        The default rate is 1e-3 with a falling cosine for the autopilot, which tries others too, and 2.5e-3 with a
        warm-up (``one_cycle``) for one method alone.

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
        steps = NO_LIMIT if given.get("steps") is None else given["steps"]
        options = replace(default, **{**given, "steps": steps})
        check_steps(options)
        return options

    def recovery(self) -> RecoveryOptions | None:
        """Return the options of the recovery in a recipe; None for no recovery, or plain fine-tuning by steps.

        Plain fine-tuning leaves the network's dropout as it is. With a factor on dropout it becomes a recovery, which
        keeps the best state on held-out data.
        """
        plain = self.method == "finetune" and self.dropout is None
        if self.minutes is None and (plain or not self.steps):
            return None
        steps = self.steps if self.minutes is None else NO_LIMIT
        return replace(self, steps=steps, dropout=self.dropout or 0.0)


_DEFAULT = RecoveryOptions(steps=1, lr=1e-3, weight_decay=0.0)
_ALONE = replace(_DEFAULT, lr=2.5e-3, schedule="one_cycle")
"""The default of one method alone, which cannot try rates as the autopilot does: a raised rate with a warm-up.
At the lower rate a few hundred steps do not suffice to learn the teacher's outputs, and labels alone do better."""


def whole_recovery(recover: Mapping[str, Any] | TrainingOptions | None) -> RecoveryOptions:
    """Return the options of a recovery: from a mapping, from those of plain fine-tuning, or the defaults."""
    if isinstance(recover, RecoveryOptions):
        return recover
    if isinstance(recover, TrainingOptions):
        return RecoveryOptions(**{f.name: getattr(recover, f.name) for f in fields(TrainingOptions)}, method="finetune")
    return _DEFAULT if recover is None else RecoveryOptions.of(recover)


def check_steps(options: RecoveryOptions) -> None:
    """Raise OptionError for a recovery of 0 steps."""
    if options.steps < 1:
        raise OptionError("recover has 0 steps; allowed: 1 or more. Leave recover out for no recovery.")
