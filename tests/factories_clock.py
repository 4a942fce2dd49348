"""A clock that a test sets: it advances by a fixed time with every training step, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from prunus.foundation import clock
from prunus.training.loop import TrainingLoop


class StepClock:
    """The time of a test: ``step`` seconds for each step of any training loop; the test may add more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float = 1.0) -> None:
        self.now, self.step, self.steps = 0.0, step, 0
        plain = TrainingLoop._step

        def counted(loop: TrainingLoop, *given: Any) -> None:
            plain(loop, *given)
            self.steps += 1
            self.now += self.step

        monkeypatch.setattr(TrainingLoop, "_step", counted)
        monkeypatch.setattr(clock, "seconds", lambda: self.now)
