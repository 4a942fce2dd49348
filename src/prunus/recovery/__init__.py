"""Recovery by training: fine-tuning, distillation, transfer, and an autopilot that chooses."""

from prunus.recovery import methods
from prunus.recovery.autopilot import recovered_
from prunus.recovery.log import Leg, RecoveryReport
from prunus.recovery.options import AUTOPILOT, RecoveryOptions
from prunus.recovery.recovery_method import RUNGS, Rung, rung
from prunus.recovery.regrow_from_dense import regrow, reseed_
from prunus.recovery.task import Case

__all__ = [
    "AUTOPILOT",
    "RUNGS",
    "Case",
    "Leg",
    "RecoveryOptions",
    "RecoveryReport",
    "Rung",
    "methods",
    "recovered_",
    "regrow",
    "reseed_",
    "rung",
]
