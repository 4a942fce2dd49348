"""The pruning of one recipe: plan, cut, verify, recover, measure; checkpoint, results and report in one folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.experiments.commands.planning import check_wanted
from prunus.experiments.comparison import results_of, threads_of, write_results
from prunus.experiments.trained_model import trained_model
from prunus.experiments.trial import dense_row, entered_row, trial_of
from prunus.foundation.progress import Progress
from prunus.methods import METHODS, Level, Method
from prunus.outcome import Outcome
from prunus.pipeline import planned
from prunus.pipeline.stage_checks import check_limits
from prunus.report.results import Results

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Pruned:
    """The recovered network with its plan, its proof and its measurements."""

    outcome: Outcome
    results: Results


def prune_recipe(recipe: Recipe, out: Path | None, progress: Progress) -> Pruned:
    """Prune one recipe's network, from training to the report.

    The folder contains the checkpoint for `prunus.load`, ``results.json`` and ``report.html``.

    Raises:
        PrunusError: any refusal of model, data or budget; nothing half-written is left.
    """
    request = check_wanted(recipe)
    with threads_of(recipe.threads):
        run = trial_of(
            trained_model(recipe, recipe.seed, progress, check=lambda dense: check_limits(dense, request)), recipe.seed
        )
        started = time.perf_counter()
        found = planned(run.analysis, request, learn=True)
        kept = found.plan.after.params / found.plan.before.params
        # A repair fits the dense network's outputs only, and would undo the training of stages on labels.
        repair = "none" if found.weights is not None else recipe.prune.repair
        entry = entered_row(
            run,
            found.plan,
            method_of_recipe(recipe, found.plan.settings.get("criterion")),
            kept,
            started,
            progress,
            weights=found.weights,
            repair=repair,
            effort=run.analysis.effort.after(time.perf_counter() - started),
        )
        results = results_of(recipe, "One network pruned", [dense_row(run)], [entry.row])
    if out is not None:
        entry.outcome.save(out, metadata=recipe.stored(out))
        write_results(results, out, progress)
    return Pruned(entry.outcome, results)


def method_of_recipe(recipe: Recipe, criterion: str | None) -> Method:
    """Return the method that the recipe names, or one that stands for its criterion and allocator."""
    section = recipe.prune
    if section.method is not None and not recipe.stages:
        return METHODS.get(section.method)
    units = METHODS.get("units")
    if recipe.stages:
        name = ", ".join(f"{stage.level} by {stage.way}" for stage in recipe.stages)
        return Method(name, "hierarchical", units.plan, name)
    name = ", ".join(part for part in (criterion, section.allocator) if part)
    kind: Level = "hierarchical" if len(section.levels) > 1 else "neuron" if section.levels == ("unit",) else "weight"
    return Method(name, kind, units.plan, f"{' and '.join(section.levels)}s by {name}")
