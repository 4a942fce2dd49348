"""The record of one way to recover, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.foundation.registry import Registry

if TYPE_CHECKING:
    from prunus.recovery.task import RecoveryTask
    from prunus.training import TrainingOptions, Watch

Unfit = Callable[["RecoveryTask"], str]
Run = Callable[["RecoveryTask", "TrainingOptions", "Watch"], None]


@dataclass(frozen=True, slots=True)
class RecoveryMethod:
    """One way to recover; it changes the task's model in place.

    Attributes:
        name: as in options and logs.
        trained: whether it takes steps; if not it is done once and costs no steps.
        run: (task, how to train, watch) → nothing.
        unfit: task → why it cannot be used there; empty where it can.
        most: the largest share of the steps that the autopilot gives it: what comes nearer to the dense network inside
            is a beginning, what looks at the answers is an end.
    """

    name: str
    trained: bool
    run: Run
    unfit: Unfit
    most: float = 1.0


RECOVERY_METHODS: Registry[RecoveryMethod] = Registry("recovery", "prunus.recoveries")


def recovery_method(
    name: str, *, trained: bool, unfit: Unfit = lambda task: "", most: float = 1.0
) -> Callable[[Run], Run]:
    """Enrol a function as a way to recover; the autopilot tries them in the order of enrolment."""

    def enrol(run: Run) -> Run:
        RECOVERY_METHODS.register(name)(RecoveryMethod(name, trained, run, unfit, most))
        return run

    return enrol
