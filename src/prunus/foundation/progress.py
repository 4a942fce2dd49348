"""The role of a progress report: library code announces tasks and steps, the caller decides how to show them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives tasks by name: begun with a number of steps, advanced, finished."""

    def start(self, task: str, total: int) -> None:
        """Begin ``task``, which has ``total`` steps; a running task begins anew."""

    def advance(self, task: str, n: int = 1) -> None:
        """Report that ``n`` more steps of ``task`` are done."""

    def finish(self, task: str) -> None:
        """Report that ``task`` has ended, with all its steps or without."""


@runtime_checkable
class Notes(Protocol):
    """A progress that shows single lines too."""

    def note(self, text: str) -> None:
        """Show one line at once."""


def tell(progress: Progress, text: str) -> None:
    """Show a line where a progress can."""
    if isinstance(progress, Notes):
        progress.note(text)


class Silent:
    """The progress that shows nothing."""

    def start(self, task: str, total: int) -> None:
        """Show nothing."""

    def advance(self, task: str, n: int = 1) -> None:
        """Show nothing."""

    def finish(self, task: str) -> None:
        """Show nothing."""
