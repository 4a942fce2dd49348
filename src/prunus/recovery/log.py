"""The log of a recovery: its attempts and their results, readable line by line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt with one method.

    Attributes:
        method: the recovery method.
        steps, seconds: its cost.
        before, after: held-out loss at its start, and the lowest one seen; equal where nothing was tried.
        kept: True if the model continued from its state.
        reason: why it was made, why it ended, or why it was passed over.
    """

    method: str
    steps: int
    seconds: float
    before: float
    after: float
    kept: bool
    reason: str

    def __str__(self) -> str:
        if not self.steps and self.before == self.after:
            return f"{self.method:<11} passed over: {self.reason}"
        change = f"{self.before:.4f} → {self.after:.4f}"
        effort = f"{self.steps} steps, {self.seconds:.1f} s"
        return f"{self.method:<11} {change}  ({effort})  {'kept' if self.kept else 'undone'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """The report of a recovery.

    Attributes:
        before, after: held-out loss; ``after`` is never above ``before``.
        steps, seconds: the total cost.
        attempts: in order.
        labelled: True if labels were used; else the losses are distances to the dense network.
        notes: differences from the request, with their reasons.
    """

    before: float
    after: float
    steps: int
    seconds: float
    attempts: tuple[Attempt, ...]
    labelled: bool = True
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "held-out loss" if self.labelled else "held-out distance to the dense network"
        head = f"{what} {self.before:.4f} → {self.after:.4f} in {self.steps} steps, {self.seconds:.1f} s"
        return "\n".join([head, *(f"  {note}" for note in self.notes), *(f"  {attempt}" for attempt in self.attempts)])
