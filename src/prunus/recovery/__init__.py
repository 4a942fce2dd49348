"""Recovery by training: fine-tuning, distillation, transfer, and an autopilot that chooses."""

from prunus.recovery import ways
from prunus.recovery.autopilot import recovered_
from prunus.recovery.case import Case
from prunus.recovery.log import Leg, RecoveryReport
from prunus.recovery.options import AUTOPILOT, RecoveryOptions
from prunus.recovery.rung import RUNGS, Rung, rung
from prunus.recovery.transfer import regrow, reseed_

__all__ = [
    "AUTOPILOT",
    "RUNGS",
    "Case",
    "Leg",
    "RecoveryOptions",
    "RecoveryReport",
    "Rung",
    "recovered_",
    "regrow",
    "reseed_",
    "rung",
    "ways",
]
