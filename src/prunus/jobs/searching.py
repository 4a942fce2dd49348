"""A search on the true loss around an allocator's answer, as an allocator itself."""

from __future__ import annotations

from collections.abc import Mapping

from prunus.budget import allocate
from prunus.budget.allocation import Allocation
from prunus.budget.allocator import Allocator, UnitProblem
from prunus.budget.evolve import Search, refine
from prunus.errors import OptionError
from prunus.methods.layer_wise import masked_loss
from prunus.methods.subject import BATCH, Subject
from prunus.progress import Progress, Silent

SAMPLES = 512
"""The loss of a candidate is measured on so many samples of the selection split."""


class Searching:
    """Divide a budget with an allocator, then switch levels between axes wherever the true loss falls.

    The true loss is that of the network with removed units at zero, norm statistics as they are, on the first 512
    samples of the selection split. Equal seeds give equal plans.
    Source: Sieberling et al., "EvoPress", arXiv:2410.14649.

    Attributes:
        found: the last answer, with its true damage and R; None before the first call.
    """

    def __init__(
        self, subject: Subject, allocator: str | Allocator, evaluations: int, progress: Progress | None = None
    ) -> None:
        """Take what candidates are judged by.

        Raises:
            OptionError: fewer than 3 evaluations.
        """
        self.subject, self.allocator, self.progress = subject, allocator, progress or Silent()
        self.search = Search(evaluations=evaluations, seed=subject.seed)
        name = allocator if isinstance(allocator, str) else getattr(allocator, "__name__", "custom")
        self.__name__ = f"{name}+search"
        self.found: Allocation | None = None
        self.started_from: float | None = None

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Return the kept counts of the best candidate."""
        batches, seen = [], 0
        for inputs, targets in self.subject.selection.batches(BATCH):
            batches.append((inputs, targets))
            seen += BATCH
            if seen >= SAMPLES:
                break
        if not batches:
            raise OptionError("A search needs samples in the selection split; it has none.")

        def loss(counts: Mapping[str, int]) -> float:
            self.progress.advance("search")
            return masked_loss(self.subject, problem.masks(counts), batches)

        self.progress.start("search", self.search.evaluations + 2)
        begin = allocate(problem, self.allocator, loss=loss)
        self.found = refine(problem, begin, loss, self.search)
        self.started_from = begin.true_damage
        self.progress.finish("search")
        return dict(self.found.counts)

    def told(self) -> dict[str, float | int | None]:
        """Return what a plan remembers of the search: the rise of the loss before and after it."""
        after = None if self.found is None else self.found.true_damage
        return {"evaluations": self.search.evaluations, "rise_before": self.started_from, "rise_after": after}
