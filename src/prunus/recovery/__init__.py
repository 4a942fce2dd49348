"""Recovery by training: fine-tuning, distillation, transfer, and an autopilot that chooses."""

from prunus.recovery import methods
from prunus.recovery.autopilot import recovered_
from prunus.recovery.log import Attempt, RecoveryReport
from prunus.recovery.options import AUTOPILOT, RecoveryOptions
from prunus.recovery.recovery_method import RECOVERY_METHODS, RecoveryMethod, recovery_method
from prunus.recovery.regrow_from_dense import regrow, reseed_
from prunus.recovery.task import RecoveryTask

__all__ = [
    "AUTOPILOT",
    "RECOVERY_METHODS",
    "Attempt",
    "RecoveryMethod",
    "RecoveryOptions",
    "RecoveryReport",
    "RecoveryTask",
    "methods",
    "recovered_",
    "recovery_method",
    "regrow",
    "reseed_",
]
