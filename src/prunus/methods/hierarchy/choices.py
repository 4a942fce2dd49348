"""The strategy of every node: weight-, gradient- or activation-based, given by a person or chosen by trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prunus.analysis import Analysis
from prunus.methods.hierarchy.assignment import Assignment, Place, check_strategy_has_data
from prunus.methods.hierarchy.settings import AUTO, UNITS, WEIGHTS, WINDOWS
from prunus.methods.hierarchy.trials import Trials
from prunus.methods.hierarchy.values import (
    ACTIVATION,
    GRADIENT,
    UNIT_CRITERIA,
    WEIGHT,
    WEIGHT_CRITERIA,
    connection_scores,
    has_input,
)
from prunus.methods.scored_units import unit_scores
from prunus.tree import Tree
from prunus.tree.addresses import VALUES

TRIAL_RATES = {UNITS: 0.5, WEIGHTS: 0.8}
"""The share of a node's units, and of its weights, that a trial removes."""
MOST_TRIALS = 48
"""The number of nodes above which a stage is tried as a whole, and not its layers one by one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The criterion of a node, and why it is this one."""

    criterion: str
    why: str


@dataclass(frozen=True, slots=True)
class Chooser:
    """Choose the criterion of every axis and weight.

    Attributes:
        assignment: the settings of nodes.
        strategy: auto, weight, gradient or activation, for nodes without a criterion or strategy of their own.
        tries: strategies are tried where they are ``auto``; without, gradients decide where there are data.
        chosen: axis id or weight name → strategy, in place of a trial.
        why: the reason for these.
        known: choices that were made before, by axis id or weight name.
    """

    assignment: Assignment
    strategy: str
    tries: bool = True
    chosen: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    known: Mapping[str, Choice] = field(default_factory=dict)

    def fixed_for_units(self, analysis: Analysis, axes: Sequence[str]) -> Chooser:
        """Return a chooser that has made its choices of axes."""
        return replace(self, known={**self.known, **self.units(analysis, axes)})

    def fixed_for_weights(self, analysis: Analysis, names: Sequence[str]) -> Chooser:
        """Return a chooser that has made its choices of weights."""
        return replace(self, known={**self.known, **self.weights(analysis, names)})

    def units(self, analysis: Analysis, axes: Sequence[str]) -> dict[str, Choice]:
        """Return axis id → criterion of its units."""
        scores: Mapping[str, Callable[[], Mapping[str, np.ndarray]]] = {
            value: lambda c=criterion: unit_scores(analysis, c)  # type: ignore[misc]
            for value, criterion in UNIT_CRITERIA.items()
        }
        places = {axis: self.assignment.axes.get(axis) for axis in axes}
        found, open_ = self._given(analysis, places, UNIT_CRITERIA, (UNITS,))
        return found | self._tried(analysis, open_, scores, UNITS)

    def weights(self, analysis: Analysis, names: Sequence[str]) -> dict[str, Choice]:
        """Return weight name → criterion of its weights."""
        scores: Mapping[str, Callable[[], Mapping[str, np.ndarray]]] = {
            value: lambda c=criterion: {  # type: ignore[misc]
                n: s.double().cpu().numpy() for n, s in connection_scores(analysis, names, c).items()
            }
            for value, criterion in WEIGHT_CRITERIA.items()
        }
        places = {name: self.assignment.weights.get(name) for name in names}
        found, open_ = self._given(analysis, places, WEIGHT_CRITERIA, (WEIGHTS, WINDOWS))
        return found | self._tried(analysis, open_, scores, WEIGHTS)

    def _given(
        self,
        analysis: Analysis,
        places: Mapping[str, Place | None],
        criteria: Mapping[str, str],
        kinds: tuple[str, ...],
    ) -> tuple[dict[str, Choice], list[str]]:
        """Return the choices that need no trial, and the parts that are left to try."""
        found, open_ = {}, []
        for part, place in places.items():
            if part in self.known:
                found[part] = self.known[part]
                continue
            own = place if place is not None and place.setting.kind in kinds else None
            if own is not None and own.setting.scored_by is not None:
                found[part] = Choice(own.setting.scored_by, f"given for {own.pattern!r}")
                continue
            strategy = (own.setting.strategy if own is not None else None) or self.strategy
            where = f" for {own.pattern!r}" if own is not None and own.setting.strategy is not None else ""
            check_strategy_has_data(analysis, strategy, where)
            if strategy != AUTO:
                found[part] = Choice(criteria[strategy], f"strategy {strategy} given{where}")
            elif not analysis.has_data:
                found[part] = Choice(criteria[WEIGHT], "strategy weight: there are no data to compare by")
            elif part in self.chosen and (kinds == (UNITS,) or self._scores(analysis, part)):
                found[part] = Choice(criteria[self.chosen[part]], f"strategy {self.chosen[part]}{self.why}")
            elif not self.tries or self.chosen:
                found[part] = Choice(criteria[GRADIENT], "strategy gradient")
            else:
                open_.append(part)
        return found, open_

    def _scores(self, analysis: Analysis, name: str) -> bool:
        """Tell whether the chosen strategy can score a weight: activations need its inputs."""
        return self.chosen[name] != ACTIVATION or has_input(analysis, name)

    def _tried(
        self,
        analysis: Analysis,
        parts: Sequence[str],
        scores: Mapping[str, Callable[[], Mapping[str, np.ndarray]]],
        kind: str,
    ) -> dict[str, Choice]:
        """Try the three strategies on every node, and take the one with the least rise of the loss."""
        if not parts:
            return {}
        trials = Trials(analysis)
        measured = {value: make() for value, make in scores.items()}
        rise = trials.units if kind == UNITS else trials.weights
        criteria = UNIT_CRITERIA if kind == UNITS else WEIGHT_CRITERIA
        found: dict[str, Choice] = {}
        analysis.progress.start(f"strategies of {kind}", len(parts))
        for node, members in _nodes(self.assignment.tree, parts, kind):
            known = [
                value
                for value in VALUES
                if kind == UNITS or value != ACTIVATION or all(has_input(analysis, name) for name in members)
            ]
            rises = {
                value: rise({name: stronger(measured[value][name], TRIAL_RATES[kind]) for name in members})
                for value in known
            }
            best = min(known, key=lambda value: (round(rises[value], 9), VALUES.index(value)))
            for name in members:
                found[name] = Choice(criteria[best], _why(node, best, rises, TRIAL_RATES[kind]))
            analysis.progress.advance(f"strategies of {kind}", len(members))
        analysis.progress.finish(f"strategies of {kind}")
        return found


def _nodes(tree: Tree, parts: Sequence[str], kind: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the nodes to try, each with its parts: one by one, or by stage where there are many."""
    if len(parts) <= MOST_TRIALS:
        return [("", (part,)) for part in parts]
    left, found = dict.fromkeys(parts), []
    for stage in tree.at("stage"):
        inside = list(tree.below(stage.id))
        held = tree.axes(stage.id) if kind == UNITS else [name for node in inside for name in node.shapes]
        members = tuple(name for name in dict.fromkeys(held) if name in left)
        for name in members:
            del left[name]
        if members:
            found.append((stage.id, members))
    return [*found, *(("", (part,)) for part in left)]


def stronger(scores: np.ndarray, rate: float) -> np.ndarray:
    """Return the parts that stay if the weakest share goes; the best one always stays."""
    flat = np.asarray(scores, float).reshape(-1)
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-flat, kind="stable")[: max(1, flat.size - round(rate * flat.size))]] = True
    return keep.reshape(np.shape(scores))


def _why(node: str, best: str, rises: Mapping[str, float], rate: float) -> str:
    others = " and ".join(f"{rise:+.3g} by {value}" for value, rise in rises.items() if value != best)
    whole = f" of {node}" if node else ""
    return f"strategy {best}: loss {rises[best]:+.3g} with {rate:.0%}{whole} removed, against {others}"
