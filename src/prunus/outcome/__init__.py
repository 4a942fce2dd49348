"""An `Analysis` and a `Plan` in; an `Outcome` out, cut, verified, repaired and recovered in this one place."""

from prunus.outcome.cutting import Cut, cut_proved
from prunus.outcome.later import check_calls, export, recover, repair, verify
from prunus.outcome.realising import FRESH, realise, recovered, renewed, repaired
from prunus.outcome.record import Outcome
from prunus.outcome.training import Recover, recovery_of, train_

__all__ = [
    "FRESH",
    "Cut",
    "Outcome",
    "Recover",
    "check_calls",
    "cut_proved",
    "export",
    "realise",
    "recover",
    "recovered",
    "recovery_of",
    "renewed",
    "repair",
    "repaired",
    "train_",
    "verify",
]
