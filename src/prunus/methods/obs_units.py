"""Units by group OBS: the consumers' compensated error orders the units, the measured damage sets the widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from prunus.analysis import Analysis
from prunus.analysis.score import make_plan
from prunus.budget import ALLOCATORS, Limits, UnitProblem
from prunus.methods.layer_inputs import Reader, readers_of, seen_inputs
from prunus.methods.level_scan import LevelScan, level_curve
from prunus.methods.method import method
from prunus.methods.output_fisher import output_fisher
from prunus.methods.scored_units import unit_scores
from prunus.plans import Decision, Plan
from prunus.solvers import exchange_units, remove_units

LEVELS_MEMO = "unit levels"
"""The key of the levels in the memo of an analysis."""
STEPS = 512
"""Most steps of an axis; with more units, several are removed from the same scores."""
LEAST_OF_EVEN = 0.25
"""Each axis keeps at least this share of its uniform width; less than for scores, as measured levels are more exact."""
_REASON = "the layers that read them make up for them best"


@dataclass(frozen=True, slots=True)
class Levels:
    """The level database of the unit level.

    Attributes:
        scores: axis id → one score a unit: the step in which it was removed, so higher stays.
        damage: axis id → error of the network's output when it alone keeps 0, 1, … of its units.
        readers: axis id → the layers that read it; empty where only products of activations do.
    """

    scores: Mapping[str, np.ndarray]
    damage: Mapping[str, np.ndarray]
    readers: Mapping[str, list[Reader]]


def unit_levels(analysis: Analysis, *, fisher: bool = False) -> Levels:
    """Remove the units of every axis one by one, with its readers in the dense network; measured once for an analysis.

    The order is that of group OBS on Σ_readers tr(S(W−Ŵ)C(W−Ŵ)ᵀ), C the covariance of the inputs (second moment where
    constant errors cannot be corrected). The damage of a level is measured: the network runs with this axis cut and its
    readers refitted. An axis that no layer reads (the width of queries and keys) is ordered by its Fisher information.

    Args:
        analysis: the network and its data.
        fisher: S is the Fisher information of each layer's outputs; else the identity over the output's variance.
    """
    known: dict[str, Level] = analysis.remember(LEVELS_MEMO if not fisher else f"{LEVELS_MEMO}, fisher", dict)
    axes = analysis.free_axes()
    if missing := [name for name in axes if name not in known]:
        known.update(_measured(analysis, missing, fisher))
    return Levels(
        {name: known[name].scores for name in axes},
        {name: known[name].damage for name in axes},
        {name: known[name].readers for name in axes},
    )


@dataclass(frozen=True, slots=True)
class Level:
    """The level database of one axis, as in `Levels`."""

    scores: np.ndarray
    damage: np.ndarray
    readers: list[Reader]


def _measured(analysis: Analysis, axes: Sequence[str], fisher: bool) -> dict[str, Level]:
    levels: dict[str, Level] = {}
    counts = None
    if fisher:
        sites = {node: seen.site for node, seen in seen_inputs(analysis).items()}
        counts = output_fisher(analysis, {node: 1 if s.kind == "conv" else -1 for node, s in sites.items()})
    scan = LevelScan(analysis)
    analysis.progress.start("levels", len(axes))
    for name in axes:
        axis = analysis.coupling.axes[name]
        readers = readers_of(analysis, axis, counts)
        consumers = [c for reader in readers for c in reader.consumers]
        if consumers:
            removal = remove_units(consumers, axis.size, at_once=-(-axis.size // STEPS))
            order, shape = removal.order.numpy(), removal.damage().numpy()
        else:
            own = unit_scores(analysis, "fisher")[name]
            order = np.argsort(own, kind="stable")
            shape = np.append(np.cumsum(own[order])[::-1], 0.0)
        scores = np.empty(axis.size)
        scores[order] = np.arange(axis.size)
        levels[name] = Level(scores, level_curve(scan, name, order, shape, readers), readers)
        analysis.progress.advance("levels")
    analysis.progress.finish("levels")
    return levels


class ByLevels:
    """An allocator that runs another one on the damages of the levels."""

    def __init__(self, damage: Mapping[str, np.ndarray], name: str = "knapsack") -> None:
        self.damage, self.__name__ = damage, name

    def __call__(self, problem: UnitProblem, /) -> dict[str, int]:
        """Return how many units of each axis stay."""
        steps = {
            a: [problem.at_steps(m, n, self.damage[m]) for m, n in problem.groups.get(a, {a: 1}).items()]
            for a in problem.scores
        }
        alike = {a: d for a, d in steps.items() if {len(c) for c in d} == {len(problem.scores[a]) + 1}}
        curves = {a: np.sum(d, axis=0) for a, d in alike.items()}
        return ALLOCATORS.get(self.__name__)(replace(problem, damage=curves, least_of_even=LEAST_OF_EVEN))


def _keep(analysis: Analysis, limits: Limits, levels: Levels) -> dict[str, np.ndarray]:
    return analysis.fit(levels.scores, limits, allocator=ByLevels(levels.damage))


def level_decisions(keep: Mapping[str, np.ndarray], levels: Levels, reason: str = _REASON) -> list[Decision]:
    """Describe kept masks, with the measured damage of each level."""
    return [
        Decision(a, "unit", int((~m).sum()), len(m), reason, damage=float(levels.damage[a][int(m.sum())]))
        for a, m in keep.items()
        if not m.all()
    ]


def _plan(analysis: Analysis, keep: Mapping[str, np.ndarray], levels: Levels, reason: str) -> Plan:
    return make_plan(analysis.coupling, keep, decisions=level_decisions(keep, levels, reason), cost=analysis.cost)


@method(
    "obs-units", "neuron", "remove the units that the layers which read them make up for best (group OBS)", joint=True
)
def obs_units(analysis: Analysis, limits: Limits) -> Plan:
    """Remove units by group OBS over all readers of an axis; widths by the knapsack over the measured levels.

    Source: Kurtić et al., "ZipLM", arXiv:2302.04089.
    """
    levels = unit_levels(analysis)
    return _plan(analysis, _keep(analysis, limits, levels), levels, _REASON)


@method("obs-units-fisher", "neuron", "as obs-units, each output weighted by what it means for the answer", joint=True)
def obs_units_fisher(analysis: Analysis, limits: Limits) -> Plan:
    """Remove units by group OBS with the Fisher information of the outputs as S.

    Source: Kurtić et al., "ZipLM", arXiv:2302.04089; the weights of the outputs: Martens and Grosse, "Optimizing Neural
    Networks with Kronecker-factored Approximate Curvature", arXiv:1503.05671.
    """
    levels = unit_levels(analysis, fisher=True)
    return _plan(analysis, _keep(analysis, limits, levels), levels, f"{_REASON}, where it counts")


@method(
    "osscar",
    "neuron",
    "as obs-units, then units of an axis are exchanged one for one as long as that helps",
    joint=True,
)
def osscar_units(analysis: Analysis, limits: Limits) -> Plan:
    """Remove units by group OBS, then exchange units within each axis, which never raises the error of the layers.

    Source: Meng et al., "OSSCAR", arXiv:2403.12983.
    """
    levels = unit_levels(analysis)
    keep = _keep(analysis, limits, levels)
    for axis, mask in keep.items():
        consumers = [c for reader in levels.readers.get(axis, ()) for c in reader.consumers]
        if consumers and 0 < mask.sum() < len(mask):
            keep[axis] = exchange_units(consumers, torch.from_numpy(mask)).kept.numpy()
    return _plan(analysis, keep, levels, f"{_REASON}, after exchanges")
