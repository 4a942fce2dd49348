"""Option records: what a constructor refuses is one sentence, however the value was given."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from prunus.errors import OptionError
from prunus.recovery import RecoveryOptions
from prunus.training import TrainingOptions


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((1, "fast"), {}, r"^lr is 'fast'; allowed: a number above 0\.$"),
        ((1,), {}, r"^lr is missing; give it: a number above 0\.$"),
        ((1, 0.1), {"stepz": 2}, r"^TrainingOptions has no option 'stepz'\. Did you mean 'steps'\? Allowed: steps, lr"),
        ((1, 0.1), {"optimizer": "adamv"}, r"^Unknown optimizer 'adamv'\. Did you mean 'adam'\? Known: sgd.*\.$"),
        ((1.0, 0.1), {}, r"^steps is 1\.0; allowed: a whole number of steps, 0 or more\.$"),
        ((1, True), {}, r"^lr is True; allowed"),
    ],
)
def test_a_wrong_value_is_one_sentence(values: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingOptions(*values, **named)


def test_a_record_is_frozen_checked_again_when_replaced_and_can_be_sent_to_a_process() -> None:
    options = RecoveryOptions(5, 0.1, minutes=2)
    assert (options.minutes, options.options()) == (2.0, TrainingOptions(5, 0.1))
    assert pickle.loads(pickle.dumps(options)) == options
    with pytest.raises(FrozenInstanceError):
        options.steps = 6  # type: ignore[misc]
    with pytest.raises(OptionError, match="soft is 2"):
        replace(options, soft=2)
