"""The result of a proof of a cut, and the errors that it allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TOLERANCE = 1e-5
"""The largest error allowed in float64."""
ROUNDED = 1e-4
"""The largest error allowed in narrower float types, which round more."""


@dataclass(frozen=True, slots=True)
class Check:
    """The proof of a cut.

    Attributes:
        error: largest relative difference ‖cut − masked‖∞ / ‖masked‖∞ over the outputs.
        change: the same between masked and uncut; a value near zero would mean that the check proves nothing.
        values_equal: the cut model's tensors are exactly the slices of the original's.
        dtype: the float type in which both ran.
        gradient_error: the same over the gradients of the parameters; None if it was not requested, or if no output
            has a gradient.
        failure: the error that the cut model raised instead of returning a result.
        sizes: other sizes of the inputs at which masked and cut were compared; ``error`` is the largest over all.
        on_example: both ran on the example inputs. If False, the capture of the cut model on them equals the edited
            program op by op, and the comparison ran on smaller inputs.
    """

    error: float
    change: float
    values_equal: bool
    dtype: torch.dtype = torch.float64
    gradient_error: float | None = None
    failure: str = ""
    sizes: tuple[str, ...] = ()
    on_example: bool = True

    @property
    def tolerance(self) -> float:
        """The largest ``error`` and ``gradient_error`` allowed in this float type."""
        return TOLERANCE if self.dtype is torch.float64 else ROUNDED

    @property
    def ok(self) -> bool:
        """True if masked and cut agree."""
        learns = self.gradient_error is None or self.gradient_error <= self.tolerance
        return self.error <= self.tolerance and self.values_equal and learns

    def __str__(self) -> str:
        word = "ok" if self.ok else "FAILED"
        gradients = "" if self.gradient_error is None else f", gradients {self.gradient_error:.1e}"
        kind = str(self.dtype).removeprefix("torch.")
        at = "also at" if self.on_example else "op by op on the example, in numbers at"
        also = f", {at} {', '.join(self.sizes)}" if self.sizes else ""
        return (
            f"masked ≡ cut: {word}, relative error {self.error:.1e}{gradients} in {kind} (allowed {self.tolerance:.0e})"
            f"{also}"
        )
