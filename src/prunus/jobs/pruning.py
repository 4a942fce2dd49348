"""The whole way for one recipe: plan, cut, verify, recover, measure; checkpoint, results and report in one folder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.comparison import results_of, threads_of, write_results
from prunus.contest import Entry, carry_through, contest_of, dense_row
from prunus.export import save
from prunus.jobs.planning import check_wanted, plan_recipe, staged_recipe
from prunus.jobs.stage_wanted import learns
from prunus.methods import METHODS, Method
from prunus.parent import parent_of
from prunus.progress import Progress
from prunus.results import Results

if TYPE_CHECKING:
    from prunus.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Pruned:
    """The recovered network with its plan, its proof and what was measured; MACs of the plan are for ``samples``."""

    entry: Entry
    results: Results
    samples: int


def prune_recipe(recipe: Recipe, out: Path | None, progress: Progress) -> Pruned:
    """Prune one recipe's network from beginning to end.

    The folder gets the checkpoint that `prunus.load` reads, ``results.json`` and ``report.html``.

    Raises:
        PrunusError: whatever model, data or budget refuse; nothing half-written stays.
    """
    check_wanted(recipe)
    with threads_of(recipe.threads):
        run = contest_of(parent_of(recipe, recipe.seed, progress), recipe.seed)
        started = time.perf_counter()
        staged = staged_recipe(run.parent, progress) if recipe.stages else None
        plan = staged.plan if staged is not None else plan_recipe(run.parent, progress)[0]
        assert plan.before is not None
        assert plan.after is not None
        kept = plan.after.params / plan.before.params
        weights = staged.model if staged is not None else None
        # A repair goes by the dense network's answers alone, and would undo what stages have learned from labels.
        repair = "none" if learns(recipe) else recipe.prune.repair
        entry = carry_through(run, plan, _way(recipe), kept, started, progress, weights=weights, repair=repair)
        results = results_of(recipe, "One network pruned", [dense_row(run)], [entry.row])
    if out is not None:
        save(entry, out, metadata={"recipe": recipe.model_dump(mode="json")})
        write_results(results, out, progress)
    return Pruned(entry, results, run.parent.samples)


def _way(recipe: Recipe) -> Method:
    """Return the method that the recipe names, or one that stands for its criterion and allocator."""
    wanted = recipe.prune
    if wanted.method is not None:
        return METHODS.get(wanted.method)
    name = f"{wanted.criterion}, {wanted.allocator}"
    if recipe.stages:
        name = ", ".join(f"{stage.level} by {stage.way}" for stage in recipe.stages)
        return Method(name, "hierarchical", METHODS.get("integrated").plan, name)
    # Its plan is made before it is entered; a second one would score again.
    return Method(name, "neuron", METHODS.get("filter-norm").plan, f"units by {wanted.criterion}, {wanted.allocator}")
