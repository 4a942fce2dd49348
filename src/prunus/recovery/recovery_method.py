"""The record of one recovery method, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunus.foundation.registry import Registry
from prunus.recovery.method_names import REGISTRY
from prunus.recovery.task import RecoveryTask
from prunus.training import TrainingOptions, Watch

Unfit = Callable[[RecoveryTask], str]
Run = Callable[[RecoveryTask, TrainingOptions, Watch], None]


@dataclass(frozen=True, slots=True)
class RecoveryMethod:
    """One recovery method; it changes the task's model in place.

    Attributes:
        name: its name in options and logs.
        trained: True if it takes steps; otherwise it runs once and costs no steps.
        run: (task, training options, watch) → nothing.
        unfit: task → the reason why it cannot be used there; empty where it can.
        most: the largest share of the steps that the autopilot gives it. A method that compares inner features prepares
            the training; a method that compares outputs ends it.
    """

    name: str
    trained: bool
    run: Run
    unfit: Unfit
    most: float = 1.0


RECOVERY_METHODS: Registry[RecoveryMethod] = REGISTRY


def recovery_method(
    name: str, *, trained: bool, unfit: Unfit = lambda task: "", most: float = 1.0
) -> Callable[[Run], Run]:
    """Enrol a function as a recovery method; the autopilot tries them in the order of enrolment."""

    def enrol(run: Run) -> Run:
        RECOVERY_METHODS.register(name)(RecoveryMethod(name, trained, run, unfit, most))
        return run

    return enrol
