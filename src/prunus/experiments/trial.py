"""One seed of a comparison: the dense network, and each method cut, verified, recovered and measured alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.analysis import Analysis
from prunus.analysis.input_size import at_plan_size, input_size_line
from prunus.data.batches import Inputs
from prunus.data.splits import Splits
from prunus.errors import BudgetError
from prunus.experiments.trained_model import (
    TrainedModel,
    first_inputs,
    recovery_of_recipe,
    trained_model,
    transfer_of_recipe,
)
from prunus.exporters import packed_size
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress
from prunus.foundation.registry import title_of
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.measurement.quality import Quality, evaluate, flip_rate
from prunus.methods import Method
from prunus.methods.method import Learned, Lesson
from prunus.methods.transfer import transfer_lines
from prunus.outcome import Outcome, realise, recovered, recovery_of
from prunus.pipeline import plan_for
from prunus.pipeline.request import TRANSFER
from prunus.plans import Cost, Plan
from prunus.report.results import LayerChange, Row, Skipped, named
from prunus.surgery.tensors import sliced_masks
from prunus.tree.describe import structure_rows

if TYPE_CHECKING:
    from prunus.experiments.recipe import Recipe

_TEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """One seed of a comparison: the trained dense network and all measurements against it.

    ``networks`` is the folder for the network of every run; None stores none.
    """

    trained: TrainedModel
    seed: int
    quality: Quality
    timing: Inputs
    networks: Path | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the comparison."""
        return self.trained.recipe

    @property
    def data(self) -> Splits:
        """The four splits."""
        return self.trained.data

    @property
    def dense(self) -> nn.Module:
        """The dense network."""
        return self.trained.model

    @property
    def analysis(self) -> Analysis:
        """The analysis that methods read."""
        return self.trained.analysis


def prepare(
    recipe: Recipe,
    seed: int,
    progress: Progress,
    weights: Mapping[str, Tensor] | None = None,
    networks: Path | None = None,
) -> Trial:
    """Build, train, analyse and score the dense network of one seed; ``weights`` spares the training."""
    return replace(trial_of(trained_model(recipe, seed, progress, weights), seed), networks=networks)


def trial_of(trained: TrainedModel, seed: int) -> Trial:
    """Score a given dense network."""
    quality = evaluate(
        trained.model,
        trained.data.test.batches(_TEST_BATCH),
        trained.data.classes,
        loss=title_of(trained.analysis.loss),
    )
    timing = first_inputs(trained.data, trained.recipe.compare.latency.batch)
    return Trial(trained, seed, quality, timing)


def enter(run: Trial, method: Method, kept: float, repair: str = "none") -> Row | Skipped:
    """Plan, cut, verify, repair, recover and measure one method at one kept share."""
    if method.only_kept is not None and kept not in method.only_kept:
        allowed = ", ".join(f"{k:.0%}" for k in method.only_kept)
        return Skipped(named(method.name, repair), kept, f"defined at {allowed} kept only")
    try:
        learned, spent = run.analysis.remember(f"plan of {method.name} at {kept}", lambda: _timed(run, method, kept))
    except BudgetError as error:
        return Skipped(named(method.name, repair), kept, str(error))
    weights = learned.model if method.teach else None
    started = time.perf_counter() - spent
    entry = entered_row(run, learned.plan, method, kept, started, weights=weights, repair=repair)
    name = named(method.name, repair)
    if run.networks is not None:
        place = run.networks / f"{name}-{kept:g}-seed{run.seed}"
        entry.outcome.save(place, metadata=run.recipe.stored(place))
    return replace(entry.row, method=name)


def _timed(run: Trial, method: Method, kept: float) -> tuple[Learned, float]:
    started, options, minutes = time.perf_counter(), run.recipe.recover.options(), run.recipe.recover.minutes
    if method.teach is None:
        guide = transfer_of_recipe(run.recipe) if TRANSFER in method.options else None
        options_of = {} if guide is None else {TRANSFER: guide.copied()}
        plan = plan_for(run.analysis, {"params": kept}, method=method.name, **options_of)
        learned = Learned(plan, run.analysis.model)
    elif not options.steps and minutes is None:
        raise BudgetError(
            "prunes while it trains, with the steps or minutes of recover; give recover.steps, at least 1"
        )
    else:
        lesson = Lesson(run.data.train, options, run.seed, recover=run.recipe.recover, minutes=minutes)
        learned = method.teach(run.analysis, run.analysis.limits(kept), lesson)
    return learned, time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one plan, and its measurements."""

    outcome: Outcome
    row: Row


def entered_row(
    run: Trial,
    plan: Plan,
    method: Method,
    kept: float,
    started: float,
    progress: Progress | None = None,
    *,
    weights: nn.Module | None = None,
    repair: str = "none",
    effort: Effort | None = None,
    recover: Callable[[Outcome], tuple[Outcome, list[str]]] | None = None,
) -> Entry:
    """Realise a plan and measure the network; ``started`` is when the planning began.

    ``weights`` is the dense network with weights trained while planning; without it the dense network is cut.
    ``effort`` is that of the repair; by default that of the analysis, and Ctrl-C then ends the whole comparison.
    ``recover`` trains the cut network and returns notes, in place of the recipe's recovery.
    """
    taught = method.teach is not None and weights is not None
    # Weights that were trained during the pruning are not refitted to the dense network's outputs.
    refit = None if repair == "none" or method.teach is not None else repair
    found = realise(
        run.analysis,
        plan,
        repair=refit,
        weights=weights,
        fresh=run.recipe.train.options(),
        effort=effort or replace(run.analysis.effort, by_hand=False),
        progress=progress,
    )
    resizer = at_plan_size(plan, run.analysis.user_inputs)
    test = run.data.test if resizer is None else resizer.data(run.data.test)
    mended = [*found.notes, *([] if found.repair is None else [str(found.repair)])]
    raw = evaluate(found.model, test.batches(_TEST_BATCH), run.data.classes, loss=title_of(run.analysis.loss))
    if taught:
        own = run.recipe.recover
        length = f"{own.steps} steps" if own.minutes is None else f"{own.minutes:g} minutes"
        notes = [f"pruned while training: the {length} of recover were spent there, none after"]
    elif recover is not None:
        found, notes = recover(found)
    else:
        options = recovery_of(recovery_of_recipe(run.recipe), has_data=True)
        found = recovered(found, options, progress=progress)
        notes = [] if found.recovery is None else [f"recovery: {one}" for one in found.recovery.attempts if one.kept]
    spent = time.perf_counter() - started
    quality = evaluate(found.model, test.batches(_TEST_BATCH), run.data.classes, loss=title_of(run.analysis.loss))
    proof = None if found.check is None else found.check.error
    row = _row(
        run,
        found.model,
        quality,
        plan.after,
        sliced_masks(plan),
        method=method.name,
        level=method.level,
        kept_fraction=kept,
        seconds=spent,
        check_error=proof,
        accuracy_before_recovery=raw.accuracy,
        notes=(*run.trained.notes, *transfer_lines(plan.settings), *_notes(plan, method), *mended, *notes),
        structure=_structure(run.analysis, plan),
        repair=repair,
        timing=None if resizer is None else resizer.inputs(run.timing),
    )
    return Entry(found, row)


def dense_row(run: Trial) -> Row:
    """Measure the dense network in the same way as the pruned ones."""
    cost = run.analysis.cost.price()
    return _row(
        run,
        run.dense,
        run.quality,
        cost,
        {},
        method="dense",
        level="dense",
        kept_fraction=1.0,
        seconds=0.0,
        check_error=None,
        accuracy_before_recovery=run.quality.accuracy,
        notes=(),
        structure=_structure(run.analysis, None),
    )


def _row(
    run: Trial,
    model: nn.Module,
    quality: Quality,
    cost: Cost,
    masks: dict[str, Tensor],
    *,
    notes: Sequence[str],
    structure: tuple[LayerChange, ...],
    timing: Inputs | None = None,
    **about: Any,
) -> Row:
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    whole = sum(int(torch.count_nonzero(p)) for p in run.dense.parameters())
    forward, backward = _latency(run, model, timing)
    return Row(
        seed=run.seed,
        kept_actual=nonzero / whole,
        accuracy=quality.accuracy,
        precision_macro=quality.precision_macro,
        recall_macro=quality.recall_macro,
        f1_macro=quality.f1_macro,
        worst_class=quality.worst_class,
        params=cost.params,
        nonzero=nonzero,
        macs_forward=cost.macs_forward,
        macs_backward=cost.macs_backward,
        size_bytes=packed_size(model, masks),
        latency_forward_ratio=forward.median,
        latency_forward_interval=(forward.low, forward.high),
        latency_backward_ratio=backward.median,
        latency_backward_interval=(backward.low, backward.high),
        latency_forward_ms=forward.candidate_ms,
        latency_backward_ms=backward.candidate_ms,
        flip_rate=flip_rate(quality.predictions, run.quality.predictions),
        auc=quality.auc,
        bits=quality.bits if quality.count > len(run.data.test) else None,
        notes=tuple(notes),
        structure=structure,
        **about,
    )


def _latency(run: Trial, model: nn.Module, timing: Inputs | None) -> tuple[LatencyRatio, LatencyRatio]:
    options = run.recipe.compare.latency
    baseline = copy.deepcopy(run.dense) if model is run.dense else run.dense

    def timed(backward: bool) -> LatencyRatio:
        return latency_ratio(
            model,
            baseline,
            run.timing if timing is None else timing,
            backward=backward,
            rounds=options.rounds,
            threads=options.threads,
            seed=run.seed,
            baseline_inputs=run.timing,
        )

    return timed(False), timed(True)


def _structure(analysis: Analysis, plan: Plan | None) -> tuple[LayerChange, ...]:
    return tuple(LayerChange(**asdict(row)) for row in structure_rows(analysis.coupling, plan))


def _notes(plan: Plan, method: Method) -> list[str]:
    by_level: dict[str, int] = {}
    for decision in plan.decisions:
        by_level[decision.level] = by_level.get(decision.level, 0) + 1
    notes = [f"{count} decisions at the level {level}" for level, count in by_level.items()]
    size = input_size_line(plan)
    if size:
        notes.append(size)
    dropped = [d.label for d in plan.drops]
    if dropped:
        notes.append("bypassed: " + ", ".join(dropped))
    if method.fresh_weights:
        notes.append("new weights, trained as long as the dense network, then recovered like the others")
    return notes
