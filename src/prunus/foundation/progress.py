"""What library code may say while it works; how it is shown is the caller's business."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives tasks by name: begun with a number of steps, advanced, finished."""

    def start(self, task: str, total: int) -> None:
        """Begin ``task``, which has ``total`` steps; a task that runs already begins anew."""

    def advance(self, task: str, n: int = 1) -> None:
        """Say that ``n`` more steps of ``task`` are done."""

    def finish(self, task: str) -> None:
        """Say that ``task`` has ended, whether or not all its steps were taken."""


class Silent:
    """The progress that shows nothing."""

    def start(self, task: str, total: int) -> None:
        """Show nothing."""

    def advance(self, task: str, n: int = 1) -> None:
        """Show nothing."""

    def finish(self, task: str) -> None:
        """Show nothing."""
