"""A number in a graph that has another value while the module that uses it trains."""

from __future__ import annotations


class InTraining(float):
    """A literal with two values: as a float it is that of evaluation.

    Example:
        >>> p = InTraining(0.0, 0.1)
        >>> (float(p), p.training)
        (0.0, 0.1)
    """

    __slots__ = ("training",)
    training: float

    def __new__(cls, value: float, training: float) -> InTraining:
        """Make a number from its value in evaluation and in training."""
        made = super().__new__(cls, value)
        made.training = float(training)
        return made

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        return float(self), self.training
