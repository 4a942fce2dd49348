"""The arms: single levels, the hierarchical procedure, and the pairs of a variant to the letter and an improved one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .cases import Case

Options = Mapping[str, Any]
AUTO, UNIFORM = "hierarchical auto", "magnitude"
SINGLE = {
    "absolute-threshold": "weights",
    "lamp": "weights",
    "obs-units": "units",
    "depth": "blocks",
    "chain-depth": "layers",
    "window-wise": "windows",
}
"""Arm of a fixed single level → its level."""
LEVELS_KEPT = (0.3, 0.1)
VARIANTS_KEPT = 0.3


def _key_path_by_gradient(case: Case) -> Options:
    """Return the option with the median |g| of the branches as threshold, measured on the calibration split."""
    import math
    import statistics

    from prunus.methods.join_importance import Gates
    from prunus.methods.reduction import droppable, whole

    importance = Gates(case.analysis).importance(whole(case.analysis))
    slopes = [math.sqrt(sum(importance[e] for e in b.edges)) for b in droppable(case.analysis)]
    level = statistics.median_low(slopes) if slopes else 1.0
    return {"method": "key-path", "key_path": {"gradient": level}}


ARMS: dict[str, Options | Callable[[Case], Options]] = {
    AUTO: {"method": "hierarchical", "strategy": "auto"},
    "hierarchical weight": {"method": "hierarchical", "strategy": "weight", "divide": "depth:3", "optimise": "none"},
    "hierarchical gradient": {
        "method": "hierarchical",
        "strategy": "gradient",
        "divide": "depth:3",
        "optimise": "none",
    },
    "hierarchical activation": {
        "method": "hierarchical",
        "strategy": "activation",
        "divide": "depth:3",
        "optimise": "none",
    },
    "window-wise alps": {"method": "alps-tile"},
    "integrated former": {"method": "integrated", "methods": ["depth", "sensitivity", "importance-weighted"]},
    "redundancy dropped": {"method": "redundancy", "merge": False},
    "redundant-weights dropped": {"method": "redundant-weights", "merge": False},
    "multi-scale search": {"method": "multi-scale", "search": 8},
    "key-path by gradient": _key_path_by_gradient,
}
"""Arm → options of a plan; an arm that is not named here is the method of its name."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A line of the table: the section of the founding texts, the arm to the letter, and the improved one."""

    section: str
    literal: str
    ours: str


VARIANTS = (
    Variant("first 2.2.1: absolute threshold", "absolute-threshold", "lamp"),
    Variant("second 2.3: relative threshold", "relative-threshold", "lamp"),
    Variant("second 2.3: gradient threshold, at once", "gradient-threshold", "importance-weighted"),
    Variant("first 2.2.2: importance E[g²]", "importance", "importance-weighted"),
    Variant("first 3.2.1: sensitivity", "sensitivity", "obs-units"),
    Variant("first 3.2.2: contribution", "contribution", "fisher"),
    Variant("first 4.2.1: key path, by gradient and by importance", "key-path by gradient", "key-path"),
    Variant("first 4.2.2: modules of highest importance", "modular", "depth"),
    Variant("first 6.1.1: gradient threshold while training", "gradient-threshold-moving", "dynamic-threshold"),
    Variant("first 6.1.1: the same, and adaptive", "gradient-threshold-moving", "adaptive"),
    Variant("first 6.2.1: units by a falling threshold while training", "sensitivity-threshold", "units-incremental"),
    Variant("first 6.2.1: the same, and adaptive", "sensitivity-threshold", "units-adaptive"),
    Variant("first 6.3.1: the moving key path", "key-path-threshold", "key-path-moving"),
    Variant("first 6.3.1: the same, and adaptive", "key-path-threshold", "key-path-adaptive"),
    Variant("first 6.3.3: all kinds, while training and in one plan", "joint", "integrated"),
    Variant("second 3.1: one strategy by weights, and auto", "hierarchical weight", AUTO),
    Variant("second 3.1: one strategy by gradients, and auto", "hierarchical gradient", AUTO),
    Variant("second 3.1: one strategy by activations, and auto", "hierarchical activation", AUTO),
    Variant("second 3.2.1: fine-tuning pruning, of weights and of units", "fine-tuning-weights", "fine-tuning-units"),
    Variant("second 3.2.1: the same, and planned on a copy", "fine-tuning-weights", "fine-tuning-pruning"),
    Variant("second 3.2.2: redundancy, dropped and merged", "redundancy dropped", "redundancy"),
    Variant("second 3.2.2: redundant weights, dropped and merged", "redundant-weights dropped", "redundant-weights"),
    Variant("second 3.2.3: integrated, the text's list and the former one", "integrated", "integrated former"),
    Variant("second 5.2.1: one rate for every layer, and rates by damage", UNIFORM, "layer-wise"),
    Variant("second 5.2.2: units in one ranking, and by their readers", "unit-wise", "obs-units"),
    Variant("second 5.2.3: windows of largest mean, and by ADMM", "window-wise", "window-wise alps"),
    Variant("second 7.2: multi-scale, fixed divisions and search", "multi-scale", "multi-scale search"),
)


def options_of(arm: str, case: Case) -> Options:
    """Return the options of an arm on a network."""
    given = ARMS.get(arm, {"method": arm})
    return given(case) if callable(given) else given


def arms_at(kept: float) -> tuple[str, ...]:
    """Return the arms that are measured at a kept share."""
    levels = (AUTO, *SINGLE, UNIFORM) if kept in LEVELS_KEPT else ()
    variants = [arm for v in VARIANTS for arm in (v.literal, v.ours)] if kept == VARIANTS_KEPT else []
    return tuple(dict.fromkeys((*levels, *variants)))
