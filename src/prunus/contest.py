"""One seed of a comparison: the trained dense network, and each method cut, verified, recovered and measured alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.errors import BudgetError
from prunus.export import packed_size
from prunus.measurement.batches import Inputs
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.measurement.quality import Quality, evaluate, flip_rate
from prunus.methods import Method, Subject
from prunus.methods.subject import Learned, Lesson
from prunus.parent import Parent, first_inputs, parent_of, train_
from prunus.plans import Cost, Plan
from prunus.progress import Progress, Silent
from prunus.recovery import Case, recovered_
from prunus.repair import repair_
from prunus.results import LayerChange, Row, Skipped, named
from prunus.surgery.cut import operate
from prunus.surgery.record import Surgery
from prunus.surgery.tensors import sliced_masks
from prunus.surgery.verify import Check, verify
from prunus.training import reset_weights_
from prunus.tree.describe import structure_rows
from prunus.workloads.splits import Splits

if TYPE_CHECKING:
    from prunus.recipe import Recipe

_TEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class Contest:
    """One seed of a comparison: the trained dense network and all that is measured against it."""

    parent: Parent
    seed: int
    quality: Quality
    timing: Inputs

    @property
    def recipe(self) -> Recipe:
        """What is compared."""
        return self.parent.recipe

    @property
    def data(self) -> Splits:
        """The four splits."""
        return self.parent.data

    @property
    def dense(self) -> nn.Module:
        """The dense network."""
        return self.parent.model

    @property
    def subject(self) -> Subject:
        """What methods look at."""
        return self.parent.subject


def prepare(recipe: Recipe, seed: int, progress: Progress, weights: Mapping[str, Tensor] | None = None) -> Contest:
    """Build, train, analyse and score the dense network of one seed; ``weights`` spares the training."""
    return contest_of(parent_of(recipe, seed, progress, weights), seed)


def contest_of(parent: Parent, seed: int) -> Contest:
    """Score a dense network that is there."""
    quality = evaluate(parent.model, parent.data.test.batches(_TEST_BATCH), parent.data.classes)
    timing = first_inputs(parent.data, parent.recipe.compare.latency.batch)
    return Contest(parent, seed, quality, timing)


def entries(run: Contest, method: Method, kept: float) -> list[Row | Skipped]:
    """Enter a method with every repair of the recipe; it plans once."""
    return [enter(run, method, kept, repair) for repair in run.recipe.compare.repair]


def enter(run: Contest, method: Method, kept: float, repair: str = "none") -> Row | Skipped:
    """Plan, cut, verify, repair, recover and measure one method at one kept share."""
    if method.only_kept is not None and kept not in method.only_kept:
        allowed = ", ".join(f"{k:.0%}" for k in method.only_kept)
        return Skipped(named(method.name, repair), kept, f"defined at {allowed} kept only")
    try:
        learned, spent = run.subject.remember(f"plan of {method.name} at {kept}", lambda: _timed(run, method, kept))
    except BudgetError as error:
        return Skipped(named(method.name, repair), kept, str(error))
    weights = learned.model if method.teach else None
    started = time.perf_counter() - spent
    row = carry_through(run, learned.plan, method, kept, started, weights=weights, repair=repair).row
    return replace(row, method=named(method.name, repair))


def _timed(run: Contest, method: Method, kept: float) -> tuple[Learned, float]:
    started, options = time.perf_counter(), run.recipe.recover.options()
    if method.teach is None:
        learned = Learned(method.plan(run.subject, kept), run.dense)
    elif not options.steps or run.recipe.recover.minutes is not None:
        raise BudgetError("prunes while it trains, with the steps of recover; give recover.steps, at least 1")
    else:
        learned = method.teach(run.subject, kept, Lesson(run.data.train, options, run.seed))
    return learned, time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Entry:
    """What one plan became: the cut and recovered network, how it was cut, and what was measured."""

    model: nn.Module
    plan: Plan
    surgery: Surgery
    check: Check
    row: Row


def carry_through(
    run: Contest, plan: Plan, method: Method, kept: float, started: float, progress: Progress | None = None,
    *, weights: nn.Module | None = None, repair: str = "none",
) -> Entry:  # fmt: skip
    """Cut as a plan says, verify, repair, recover and measure; ``started`` is when the planning began.

    ``weights`` is the dense network with what was learned while planning; without it the dense network is cut.
    """
    subject, source = run.subject, weights or run.dense
    small, surgery = operate(source, subject.coupling, plan, subject.example_inputs)
    check = verify(source, small, subject.coupling, plan, subject.example_inputs, seed=run.seed)
    mended = _repair(run, method, small, plan, repair, progress or Silent())
    raw = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    masks = sliced_masks(plan)
    if method.teach is not None and weights is not None:
        told = [f"pruned while training: the {run.recipe.recover.steps} steps of recover were spent there, none after"]
    else:
        told = _recover(run, method, small, plan, progress or Silent())
    spent = time.perf_counter() - started
    quality = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    assert plan.after is not None
    row = _row(
        run, small, quality, plan.after, masks,
        method=method.name, level=method.level, kept_fraction=kept, seconds=spent, check_error=check.error,
        accuracy_before_recovery=raw.accuracy, notes=(*_notes(plan, method), *mended, *told),
        structure=_structure(subject, plan), repair=repair,
    )  # fmt: skip
    return Entry(small, plan, surgery, check, row)


def _repair(
    run: Contest, method: Method, small: nn.Module, plan: Plan, repair: str, progress: Progress
) -> list[str]:  # fmt: skip
    """Refit what is left on the calibration split, unless its weights are new or were trained while pruned."""
    if repair == "none" or method.fresh_weights or method.teach is not None:
        return []
    calibration, coupling = run.data.calibration.batches(_TEST_BATCH), run.subject.coupling
    told = repair_(small, run.dense, coupling, plan, calibration, repair=repair, seed=run.seed, progress=progress)
    return [str(told)]


def _recover(run: Contest, method: Method, small: nn.Module, plan: Plan, progress: Progress) -> list[str]:
    """Recover a cut network as the recipe says, and return what is worth telling about it."""
    wanted, masks = run.recipe.recover.recovery(), sliced_masks(plan)
    if method.fresh_weights:
        reset_weights_(small, run.seed)
        train_(small, run.data, run.recipe.train.options(), run.seed, progress, "from scratch")
    if wanted is None:
        train_(small, run.data, run.recipe.recover.options(), run.seed, progress, "recover", masks or None)
        return []
    subject = run.subject
    case = Case(small, run.dense, run.data.train, run.data.selection, wanted, masks, plan, subject.coupling,
                subject.example_inputs, run.seed)  # fmt: skip
    return [f"recovery: {leg}" for leg in recovered_(case).legs if leg.kept]


def dense_row(run: Contest) -> Row:
    """Measure the dense network like everything else."""
    cost = run.subject.cost.price()
    return _row(
        run, run.dense, run.quality, cost, {},
        method="dense", level="dense", kept_fraction=1.0, seconds=0.0, check_error=None,
        accuracy_before_recovery=run.quality.accuracy, notes=(),
        structure=_structure(run.subject, None),
    )  # fmt: skip


def _row(
    run: Contest, model: nn.Module, quality: Quality, cost: Cost, masks: dict[str, Tensor], *,
    notes: Sequence[str], structure: tuple[LayerChange, ...], **about: Any,
) -> Row:  # fmt: skip
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    whole = sum(int(torch.count_nonzero(p)) for p in run.dense.parameters())
    forward, backward = _latency(run, model)
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
        macs_forward=cost.macs_forward // run.parent.samples,
        macs_backward=cost.macs_backward // run.parent.samples,
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


def _latency(run: Contest, model: nn.Module) -> tuple[LatencyRatio, LatencyRatio]:
    options = run.recipe.compare.latency
    baseline = copy.deepcopy(run.dense) if model is run.dense else run.dense

    def timed(backward: bool) -> LatencyRatio:
        return latency_ratio(model, baseline, run.timing, backward=backward, rounds=options.rounds,
                             threads=options.threads, seed=run.seed)  # fmt: skip

    return timed(False), timed(True)


def _structure(subject: Subject, plan: Plan | None) -> tuple[LayerChange, ...]:
    return tuple(LayerChange(**asdict(row)) for row in structure_rows(subject.coupling, plan))


def _notes(plan: Plan, method: Method) -> list[str]:
    by_level: dict[str, int] = {}
    for decision in plan.decisions:
        by_level[decision.level] = by_level.get(decision.level, 0) + 1
    told = [f"{count} decisions at the level {level}" for level, count in by_level.items()]
    dropped = [d.label for d in plan.drops]
    if dropped:
        told.append("bypassed: " + ", ".join(dropped))
    if method.fresh_weights:
        told.append("new weights, trained as long as the dense network, then recovered like the others")
    return told
