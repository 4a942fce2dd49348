"""The record of one way to recover, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunus.foundation.registry import Registry

if TYPE_CHECKING:
    from prunus.recovery.task import Case
    from prunus.training import TrainingOptions, Watch

Unfit = Callable[["Case"], str]
Run = Callable[["Case", "TrainingOptions", "Watch"], None]


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to recover; it changes the case's model in place.

    Attributes:
        name: as in options and logs.
        trained: whether it takes steps; if not it is done once and costs no steps.
        run: (case, how to train, watch) → nothing.
        unfit: case → why it cannot be used there; empty where it can.
        most: the largest share of the steps that the autopilot gives it: what comes nearer to the dense network inside
            is a beginning, what looks at the answers is an end.
    """

    name: str
    trained: bool
    run: Run
    unfit: Unfit
    most: float = 1.0


RUNGS: Registry[Rung] = Registry("recovery", "prunus.recoveries")


def rung(name: str, *, trained: bool, unfit: Unfit = lambda case: "", most: float = 1.0) -> Callable[[Run], Run]:
    """Enrol a function as a way to recover; the autopilot tries them in the order of enrolment."""

    def enrol(run: Run) -> Run:
        RUNGS.register(name)(Rung(name, trained, run, unfit, most))
        return run

    return enrol
