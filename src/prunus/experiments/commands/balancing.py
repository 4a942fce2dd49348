"""The balance of pruning and training of one recipe: a frontier of its pruned network, its knee, and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.errors import OptionError
from prunus.experiments.commands.planning import check_wanted
from prunus.experiments.commands.pruning import method_of_recipe
from prunus.experiments.comparison import check_own_results, results_of, threads_of, write_results
from prunus.experiments.trained_model import recovery_of_recipe, trained_model
from prunus.experiments.trial import Trial, dense_row, entered_row, trial_of
from prunus.foundation.atomic_files import check_writable
from prunus.foundation.clock import NO_LIMIT
from prunus.foundation.progress import Progress
from prunus.outcome import Outcome
from prunus.pipeline import planned
from prunus.pipeline.stage_checks import check_limits
from prunus.pipeline.training_frontier import Balanced, Budgets, train_frontier
from prunus.report.results import Results

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe
    from prunus.recovery import RecoveryOptions
    from prunus.training import TrainingOptions


@dataclass(frozen=True, slots=True)
class BalancedRecipe:
    """The frontier with the outcome of its knee, and the results, whose one row is that of the knee."""

    balanced: Balanced
    results: Results


def budgets_of(recipe: Recipe) -> Budgets:
    """Return the budgets of the section ``frontier`` of a recipe.

    Raises:
        OptionError: no budgets, or budgets that are not allowed.
    """
    section = recipe.frontier
    if section.steps is None and section.minutes is None:
        raise OptionError(
            "The recipe has no frontier; add a section 'frontier: {steps: [50, 100, 200]}', or give --steps 50,100,200."
        )
    return Budgets.of(section.steps, section.minutes, section.rule)


def balance_recipe(
    recipe: Recipe, out: Path | None, progress: Progress, announce: Callable[[str], object] | None = None
) -> BalancedRecipe:
    """Prune one recipe's network, train it with every budget of its ``frontier``, and report the knee.

    The folder contains ``results.json``, ``report.html``, and below ``networks`` a checkpoint for every budget.

    Args:
        recipe: the recipe.
        out: the folder; None writes nothing.
        progress: reports every long step.
        announce: called with the estimate of the time before the trainings, and where they are interrupted.

    Raises:
        PrunusError: any refusal of model, data or budget.
    """
    request, budgets = check_wanted(recipe), budgets_of(recipe)
    if out is not None:
        check_writable(out / "results.json")
        check_own_results(out)
    with threads_of(recipe.threads):
        run = trial_of(
            trained_model(recipe, recipe.seed, progress, check=lambda dense: check_limits(dense, request)), recipe.seed
        )
        started = time.perf_counter()
        found = planned(run.analysis, request)
        made: list[Balanced] = []

        def trained(start: Outcome) -> tuple[Outcome, list[str]]:
            made.append(_frontier(run, start, budgets, out, progress, announce))
            knee = made[0].frontier.chosen
            note = f"the knee of the frontier, by rule {budgets.rule}: {knee.amount:g} {budgets.unit} of recovery"
            return made[0].outcome, [note]

        entry = entered_row(
            run,
            found.plan,
            method_of_recipe(recipe, found.plan.settings.get("criterion")),
            found.plan.after.params / found.plan.before.params,
            started,
            progress,
            weights=found.weights,
            # A repair fits the dense network's outputs only, and would undo the training of stages on labels.
            repair="none" if found.weights is not None else recipe.prune.repair,
            recover=trained,
        )
        results = results_of(recipe, "Accuracy over training time", [dense_row(run)], [entry.row])
    results = replace(results, frontier=made[0].frontier)
    if out is not None:
        write_results(results, out, progress)
    return BalancedRecipe(made[0], results)


def _frontier(
    run: Trial,
    start: Outcome,
    budgets: Budgets,
    out: Path | None,
    progress: Progress,
    announce: Callable[[str], object] | None,
) -> Balanced:
    recipe = run.recipe

    def options_of(unit: str, amount: float) -> RecoveryOptions | TrainingOptions:
        own = {"steps": int(amount), "minutes": None} if unit == "steps" else {"steps": NO_LIMIT, "minutes": amount}
        return recovery_of_recipe(recipe.model_copy(update={"recover": replace(recipe.recover, **own)}))

    return train_frontier(
        start,
        budgets,
        options_of,
        out=out,
        metadata=recipe.stored,
        announce=announce,
        progress=progress,
    )
