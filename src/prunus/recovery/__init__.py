"""A cut network, its dense network and data in; the cut network trained to its best state, and a report, out."""

from prunus.recovery import methods
from prunus.recovery.autopilot import recovered_
from prunus.recovery.log import Attempt, RecoveryReport
from prunus.recovery.method_names import AUTOPILOT
from prunus.recovery.options import RecoveryOptions
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
