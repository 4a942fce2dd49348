"""A search on the true loss around the counts of an allocator, as an allocator itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from prunus.analysis import BATCH, Analysis
from prunus.budget import allocate
from prunus.budget.allocation import Allocation
from prunus.budget.allocator import Allocator, UnitProblem
from prunus.budget.evolutionary_search import Search, refine
from prunus.errors import OptionError
from prunus.foundation.progress import Progress, Silent
from prunus.methods.after_repair import AfterRepair
from prunus.methods.layer_wise import masked_loss
from prunus.repairs import check_repair

SAMPLES = 512
"""Number of samples of the selection split on which the loss of a candidate is measured."""


class LossSearch:
    """Divide a budget with an allocator, then switch levels between axes wherever the true loss falls.

    The true loss is that of the network with removed units at zero, norm statistics unchanged, on the first 512 samples
    of the selection split. With a repair, it is the distance of the outputs of the cut and repaired network to the
    dense ones (`AfterRepair`), on calibration samples that the repair was not fitted to, without labels. Equal seeds
    give equal plans.
    Source: Sieberling et al., "EvoPress", arXiv:2410.14649.

    Attributes:
        found: the last allocation, with its true damage and R; None before the first call.
    """

    def __init__(
        self,
        analysis: Analysis,
        allocator: str | Allocator,
        evaluations: int,
        progress: Progress | None = None,
        *,
        repair: str = "none",
    ) -> None:
        """Set the loss of candidates; ``repair="auto"`` means refold, and repairs that train take few steps.

        Raises:
            OptionError: fewer than 3 evaluations, or an unknown repair.
        """
        check_repair(repair)
        self.repair = {"auto": "refold"}.get(repair, repair)
        self.analysis, self.allocator, self.progress = analysis, allocator, progress or Silent()
        self.search = Search(evaluations=evaluations, seed=analysis.seed)
        name = allocator if isinstance(allocator, str) else getattr(allocator, "__name__", "custom")
        self.__name__ = f"{name}+search"
        self.found: Allocation | None = None
        self.started_from: float | None = None

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Return the kept counts of the best candidate."""
        measure = self._measure()

        def loss(counts: Mapping[str, int]) -> float:
            self.progress.advance("search")
            value = measure(problem.masks(counts))
            return value if math.isfinite(value) else math.inf  # NaN does not compare

        self.progress.start("search", self.search.evaluations + 2)
        begin = allocate(problem, self.allocator, loss=loss)
        self.found = refine(problem, begin, loss, self.search)
        self.started_from = begin.true_damage
        self.progress.finish("search")
        return dict(self.found.counts)

    def _measure(self) -> Callable[[Mapping[str, np.ndarray]], float]:
        if self.repair != "none":
            return AfterRepair(self.analysis, self.repair).error
        batches, seen = [], 0
        for inputs, targets in self.analysis.selection.batches(BATCH):
            batches.append((inputs, targets))
            seen += BATCH
            if seen >= SAMPLES:
                break
        if not batches:
            raise OptionError("A search needs samples in the selection split; it has none.")

        return lambda keep: masked_loss(self.analysis, keep, batches)

    def report(self) -> dict[str, float | int | str | None]:
        """Return the settings that a plan records of the search: the rise of the minimised loss before and after it."""
        after = None if self.found is None else self.found.true_damage
        return {
            "evaluations": self.search.evaluations,
            "repair": self.repair,
            "rise_before": self.started_from,
            "rise_after": after,
        }
