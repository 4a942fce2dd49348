"""Make results of a comparison that was never run, with numbers that behave like real ones."""

from __future__ import annotations

import random
from dataclasses import replace

from prunus.report.results import Environment, LayerChange, Results, Row, Skipped

METHODS = {
    "absolute-threshold": "weight",
    "relative-threshold": "weight",
    "gradient-threshold": "weight",
    "importance": "weight",
    "window-tile": "weight",
    "window-kernel": "weight",
    "two-four": "weight",
    "sensitivity": "neuron",
    "contribution": "neuron",
    "magnitude": "neuron",
    "key-path": "structure",
    "modular": "structure",
    "layer-wise": "hierarchical",
    "multi-scale": "hierarchical",
    "random": "baseline",
    "smaller-dense": "baseline",
}
# Points of accuracy lost at 10 % kept: before recovery, and after.
_LOSS = {"weight": (0.30, 0.03), "neuron": (0.62, 0.07), "structure": (0.55, 0.09), "hierarchical": (0.5, 0.05)}
_LAYERS = [("stem", "conv", 24, 240), ("block1.a", "conv", 32, 6944), ("block1.b", "conv", 32, 9248)]
_LAYERS += [("block2.left", "conv", 32, 9248), ("block2.right", "grouped conv", 32, 2336)]
_LAYERS += [("block3.a", "conv", 64, 36928), ("block3.b", "conv", 64, 36928), ("head.0", "linear", 64, 8256)]
_LAYERS += [("head.2", "linear", 10, 650)]
_PARAMS = sum(layer[3] for layer in _LAYERS)


def make_row(method: str = "importance", kept: float = 0.5, seed: int = 0, **changes: object) -> Row:
    """Return a plausible row; ``changes`` replaces single fields."""
    dice = random.Random(f"{method} {kept} {seed}")
    level = METHODS.get(method, "dense")
    before_loss, after_loss = _LOSS.get(level, (0.8, 0.16))
    if method == "smaller-dense":
        before_loss, after_loss = 0.06, 0.06
    depth = 0.0 if level == "dense" else ((1 - kept) / 0.9) ** 2.2
    accuracy = 0.985 - after_loss * depth * dice.uniform(0.6, 1.3) - dice.uniform(0, 0.004)
    before = min(accuracy, 0.985 - before_loss * depth * dice.uniform(0.8, 1.2))
    masked = level == "weight"
    shrink = 1.0 if masked or level == "dense" else kept * dice.uniform(0.9, 1.2)
    nonzero = _PARAMS if level == "dense" else int(_PARAMS * kept * dice.uniform(0.985, 1.0))
    ratio = 1.0 if level == "dense" else dice.uniform(0.98, 1.04) if masked else 0.25 + 0.75 * shrink
    row = Row(
        method=method,
        level=level,  # type: ignore[arg-type]
        kept_fraction=1.0 if level == "dense" else kept,
        seed=seed,
        kept_actual=nonzero / _PARAMS,
        accuracy_before_recovery=before,
        accuracy=accuracy,
        precision_macro=accuracy - 0.001,
        recall_macro=accuracy - 0.002,
        f1_macro=accuracy - 0.0015,
        worst_class=max(0.0, accuracy - 0.03 - 4 * (0.985 - accuracy)),
        params=_PARAMS if masked else nonzero,
        nonzero=nonzero,
        macs_forward=int(2_360_000 * min(1.0, shrink)),
        macs_backward=int(4_700_000 * min(1.0, shrink)),
        size_bytes=int(_PARAMS / 8 + nonzero * 4) if masked else nonzero * 4 + 2100,
        latency_forward_ratio=ratio,
        latency_forward_interval=(ratio * 0.965, ratio * 1.035),
        latency_backward_ratio=ratio * 1.02,
        latency_backward_interval=(ratio * 0.98, ratio * 1.06),
        seconds=dice.uniform(0.4, 3.5),
        check_error=None if masked or level in ("dense", "baseline") else dice.uniform(1e-8, 4e-7),
        structure=_structure(level, kept, dice),
        flip_rate=None if level == "dense" else 0.01 + 0.985 - accuracy,
        latency_forward_ms=11.2 * ratio,
        latency_backward_ms=23.9 * ratio,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def _structure(level: str, kept: float, dice: random.Random) -> tuple[LayerChange, ...]:
    changes = []
    for name, kind, units, params in _LAYERS:
        share = 1.0 if level == "dense" or name == "head.2" else min(1.0, kept * dice.uniform(0.7, 1.4))
        dropped = level in ("structure", "hierarchical") and share < 0.35 and name in ("block2.right", "block1.b")
        left = units if level in ("weight", "dense") else 0 if dropped else max(1, round(units * share))
        weights = 0 if dropped else int(params * share)
        changes.append(LayerChange(name, kind, units, left, params, weights, dropped))
    return tuple(changes)


def make_results(
    kept: tuple[float, ...] = (0.5, 0.3, 0.1), seeds: int = 2, methods: tuple[str, ...] = tuple(METHODS)
) -> Results:
    """Return results of every method at every kept fraction with every seed, but for one that was skipped."""
    names = [(method, share) for share in kept for method in methods if (method, share) != ("two-four", 0.1)]
    return Results.make(
        title="Pruning methods on digits",
        workload="digits",
        model="DigitsNet, 110,778 parameters",
        created="2026-01-31T12:00:00+00:00",
        version="0.1.0",
        environment=Environment("2.13.0", "3.11.2", "2 cores, AVX-512", 1, 64),
        recipe={"version": 1, "model": "digits", "recover": {"steps": 60, "lr": 5e-4}},
        dense_runs=[make_row("dense", seed=seed) for seed in range(seeds)],
        runs=[make_row(method, share, seed) for method, share in names for seed in range(seeds)],
        skipped=[Skipped("two-four", 0.1, "2:4 keeps half of the weights; 10 % is out of its reach")],
    )
