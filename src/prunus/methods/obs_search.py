"""Widths of obs-units searched by what is left after a repair: no labels, nothing added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from prunus.budget import ALLOCATORS, UnitProblem, allocate
from prunus.budget.allocation import Allocation
from prunus.budget.evolve import Search, refine
from prunus.methods.after_repair import LAST_STEPS, STEPS, AfterRepair
from prunus.methods.obs_units import LEAST_OF_EVEN, Levels, unit_levels
from prunus.methods.subject import Subject
from prunus.planning import make_plan, unit_decisions
from prunus.plans import Plan
from prunus.repair.lanes import LARGEST

EVALUATIONS, LEAST_EVALUATIONS = 12, 5
"""Candidates that are repaired block by block, and the least of them for networks that would take long."""
OFFSPRING, SURVIVORS = 6, 2
"""Candidates of a generation, which are refitted, and how many of them are repaired block by block."""
WORK = 1e13
"""Multiply-accumulates of all these repairs that are affordable: some minutes on one core."""
POWERS = (1.0, 0.5)
"""Beginnings: the knapsack on d and on √d, which divides more evenly; and an even division."""


class _Searched:
    """Allocator: the best beginning, then level switches around it, judged after a repair."""

    __name__ = "knapsack"

    def __init__(self, subject: Subject, levels: Levels) -> None:
        self._subject, self._levels = subject, levels
        self.found: Allocation | None = None
        self.began: float | None = None
        self.evaluations = 0

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        damage = self._levels.damage
        curves = {a: damage[a] for a in problem.scores if len(damage[a]) == len(problem.scores[a]) + 1}
        problem = replace(problem, damage=curves, least_of_even=LEAST_OF_EVEN)
        quick, tuned = AfterRepair(self._subject), AfterRepair(self._subject, "blockwise")
        known: dict[tuple[int, ...], float] = {}

        def loss(counts: Mapping[str, int]) -> float:
            key = tuple(counts[a] for a in problem.scores)
            if key not in known:
                known[key] = tuned.error(problem.masks(counts))
                self._subject.progress.advance("search")
            return known[key]

        def sieve(counts: Mapping[str, int]) -> float:
            return quick.error(problem.masks(counts))

        beginnings = _beginnings(problem)
        evaluations = _evaluations(self._subject, problem, beginnings[0])
        self._subject.progress.start("search", evaluations + len(beginnings))
        best = min(beginnings, key=loss)
        begin = allocate(problem, lambda _: dict(best), loss=loss)
        search = Search(evaluations, OFFSPRING, seed=self._subject.seed, survivors=SURVIVORS)
        self.found = refine(problem, begin, loss, search, sieve=sieve)
        self.began, self.evaluations = loss(beginnings[0]), len(known)
        self._subject.progress.finish("search")
        return dict(self.found.counts)


def _beginnings(problem: UnitProblem) -> list[dict[str, int]]:
    """Return the divisions that a search may begin with, each once; that of the measured damages first."""
    found = []
    for power in POWERS:
        damage = {a: np.asarray(curve, float) ** power for a, curve in problem.damage.items()}
        found.append(ALLOCATORS.get("knapsack")(replace(problem, damage=damage)))
    found.append(ALLOCATORS.get("uniform")(problem))
    return [counts for i, counts in enumerate(found) if counts not in found[:i]]


def _evaluations(subject: Subject, problem: UnitProblem, counts: Mapping[str, int]) -> int:
    graph = subject.coupling.graph
    shape = graph.node(graph.inputs[0]).shape if graph.inputs else ()
    sample = problem.price(counts).macs_forward / max(1, shape[0] if shape else 1)
    work = 3 * (STEPS + LAST_STEPS) * LARGEST * sample  # forward and backward of one lane in every step
    return min(EVALUATIONS, max(LEAST_EVALUATIONS, int(WORK / max(1.0, work))))


def obs_search(subject: Subject, kept: float) -> Plan:
    """Remove units in the order of group OBS; widths by a search on the error after a repair without labels.

    The search begins with the knapsack over the measured levels or a more even division, whichever is better, and
    switches levels between axes. A generation is refitted by least squares, the best of it are trained block by block
    for a few steps, and the one whose outputs come closest to the dense network's on held-out samples stays.

    Source: Kurtić et al., "ZipLM", arXiv:2302.04089 (the levels); Sieberling et al., "EvoPress", arXiv:2410.14649 (the
    search); Li et al., "BRECQ", arXiv:2102.05426 (the repair in blocks).
    """
    levels = unit_levels(subject)
    search = _Searched(subject, levels)
    keep = subject.fit(levels.scores, subject.limit(kept), allocator=search)
    settings = {"method": "obs-search", "kept": kept}
    if search.found is not None:
        settings["search"] = {"evaluations": search.evaluations, "error_before": search.began,
                              "error_after": search.found.true_damage, "ratio": search.found.ratio}  # fmt: skip
    decisions = unit_decisions(keep, "loss to the layers that read it (group OBS)")
    return make_plan(subject.coupling, keep, decisions=decisions, settings=settings, cost=subject.cost)
