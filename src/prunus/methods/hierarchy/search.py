"""A search over assignments on the tree: shares of blocks and units, and a strategy and a weight for every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from prunus.errors import BudgetError, CaptureError, PlanError
from prunus.methods.hierarchy.choices import Chooser
from prunus.methods.hierarchy.evaluation import stage_of
from prunus.methods.hierarchy.levels import DAMAGE, LAMP, SIZE, drop_blocks, mask_weights
from prunus.methods.hierarchy.procedure import Procedure
from prunus.methods.hierarchy.settings import AUTO
from prunus.methods.hierarchy.state import State
from prunus.methods.hierarchy.values import GRADIENT, WEIGHT
from prunus.tree.addresses import VALUES

_STARTS = (0.0, 0.25, 0.5, 1.0)
"""Exponents of the units' share in the first designs."""
_STEP = 0.125
_MOST_FACTOR = 8.0


@dataclass(frozen=True, slots=True)
class Design:
    """One assignment on the tree.

    Attributes:
        blocks, units: exponents e of the share spent^(1−e)·limit^e that a level leaves; 0 removes nothing.
        ranking: of single weights over the network, ``lamp``, ``size`` or ``damage``.
        strategies: id of a stage → weight, gradient or activation.
        factors: id of a stage → factor of the damage predicted for it.
    """

    blocks: float = 0.0
    units: float = 0.0
    ranking: str = LAMP
    strategies: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"blocks {self.blocks:g}", f"units {self.units:g}", f"weights by {self.ranking}"]
        parts += [f"{stage} by {value}" for stage, value in self.strategies.items()]
        parts += [f"{stage} × {factor:g}" for stage, factor in self.factors.items() if factor != 1]
        return ", ".join(parts)


def searched(procedure: Procedure, number: int) -> tuple[float, State, Design] | None:
    """Return the best of ``number`` assignments by the loss after a short recovery; None where none fits.

    The first ones are a grid of shares; then one part of the best assignment is changed at a time, drawn from the seed,
    and kept where the loss falls: the share of a level, the ranking, the strategy of a stage, or its weight.
    """
    analysis = procedure.analysis
    draw = np.random.default_rng(analysis.seed)
    best: tuple[float, State, Design] | None = None
    tried: set[str] = set()
    starts = list(_starts(procedure))
    analysis.progress.start("search on the tree", number)
    for index in range(number):
        if index < len(starts):
            design = starts[index]
        elif best is None:
            break
        else:
            design = _changed(procedure, best[2], draw, tried)
        tried.add(str(design))
        try:
            state = carried_out(procedure, design)
            loss = procedure.loss(state.plan())
        except (BudgetError, PlanError, CaptureError):
            state, loss = None, float("inf")
        if state is not None and (best is None or loss < best[0]):
            best = (loss, state, design)
        analysis.progress.advance("search on the tree")
    analysis.progress.finish("search on the tree")
    return best


def _starts(procedure: Procedure) -> Iterator[Design]:
    strategy = procedure.strategy if procedure.strategy != AUTO else GRADIENT if procedure.analysis.has_data else WEIGHT
    stages = dict.fromkeys((node.id for node in procedure.tree.at("stage")), strategy)
    rankings = (LAMP, SIZE, DAMAGE) if procedure.analysis.masks_save else (LAMP,)
    for units in _STARTS if procedure.analysis.masks_save else (1.0,):
        for ranking in rankings:
            yield Design(0.0, units, ranking, stages, dict.fromkeys(stages, 1.0))


def _changed(procedure: Procedure, design: Design, draw: np.random.Generator, tried: set[str]) -> Design:
    """Return the design with one part changed, another one than those that were tried where there is one."""
    for _ in range(50):
        found = _one_change(procedure, design, draw)
        if str(found) not in tried:
            return found
    return found


def _one_change(procedure: Procedure, design: Design, draw: np.random.Generator) -> Design:
    stages, masks = list(design.strategies), procedure.analysis.masks_save
    kinds = ["factor", "blocks", *(["strategy"] if procedure.strategy == AUTO else [])]
    kinds += ["units", "ranking"] if masks else []
    kind = kinds[int(draw.integers(len(kinds)))]
    stage = stages[int(draw.integers(len(stages)))]
    if kind == "strategy":
        others = [value for value in VALUES if value != design.strategies[stage]]
        return replace(design, strategies={**design.strategies, stage: others[int(draw.integers(len(others)))]})
    if kind == "factor":
        factor = design.factors[stage] * (2.0 if draw.random() < 0.5 else 0.5)
        factor = float(np.clip(factor, 1 / _MOST_FACTOR, _MOST_FACTOR))
        return replace(design, factors={**design.factors, stage: factor})
    if kind == "ranking":
        others = [ranking for ranking in (LAMP, SIZE, DAMAGE) if ranking != design.ranking]
        return replace(design, ranking=others[int(draw.integers(len(others)))])
    sign = _STEP if draw.random() < 0.5 else -_STEP
    value = float(np.clip(getattr(design, kind) + sign, 0.0, 1.0))
    return replace(design, blocks=value) if kind == "blocks" else replace(design, units=value)


def carried_out(procedure: Procedure, design: Design) -> State:
    """Prune by an assignment: blocks, units, and weights down to the limit.

    Raises:
        BudgetError: the budget is out of reach.
    """
    analysis, limit, home = procedure.analysis, procedure.limit, stage_of(procedure.tree)
    chosen = {part: design.strategies[stage] for part, stage in home.items()}
    factors = {part: design.factors[stage] for part, stage in home.items()}
    chooser = Chooser(procedure.assignment, procedure.strategy, tries=False, chosen=chosen, why=" of its stage")
    state = drop_blocks(State.of(analysis), procedure.assignment, _goal(State.of(analysis), limit.value, design.blocks))
    exponent = design.units if analysis.masks_save else 1.0
    state = procedure.units_left(state, chooser, _goal(state, limit.value, exponent), factors)
    if analysis.masks_save:
        state = mask_weights(state, procedure.assignment, chooser, limit, design.ranking, bias=factors)
    return state


def _goal(state: State, limit: int, exponent: float) -> int | None:
    spent = state.spent()
    return int(spent ** (1 - exponent) * limit**exponent) if exponent > 0 and spent > limit else None
