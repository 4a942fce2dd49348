"""One seed of a comparison: the trained dense network, and each method cut, verified, recovered and measured alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.errors import BudgetError
from prunus.export import packed_size
from prunus.measurement.batches import Inputs
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.measurement.quality import Quality, evaluate, flip_rate
from prunus.methods import Method, Subject
from prunus.parent import Parent, first_inputs, parent_of, train_
from prunus.plans import Cost, Plan
from prunus.progress import Progress, Silent
from prunus.results import LayerChange, Row, Skipped
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


def enter(run: Contest, method: Method, kept: float) -> Row | Skipped:
    """Plan, cut, verify, recover and measure one method at one kept share."""
    if method.only_kept is not None and kept not in method.only_kept:
        allowed = ", ".join(f"{k:.0%}" for k in method.only_kept)
        return Skipped(method.name, kept, f"defined at {allowed} kept only")
    started = time.perf_counter()
    try:
        plan = method.plan(run.subject, kept)
    except BudgetError as error:
        return Skipped(method.name, kept, str(error))
    return carry_through(run, plan, method, kept, started).row


@dataclass(frozen=True, slots=True)
class Entry:
    """What one plan became: the cut and recovered network, how it was cut, and what was measured."""

    model: nn.Module
    plan: Plan
    surgery: Surgery
    check: Check
    row: Row


def carry_through(
    run: Contest, plan: Plan, method: Method, kept: float, started: float, progress: Progress | None = None
) -> Entry:
    """Cut as a plan says, verify, recover and measure; ``started`` is when the planning began."""
    subject = run.subject
    small, surgery = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    check = verify(subject.model, small, subject.coupling, plan, subject.example_inputs, seed=run.seed)
    raw = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    masks = sliced_masks(plan)
    _recover(run, method, small, masks, progress or Silent())
    spent = time.perf_counter() - started
    quality = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    assert plan.after is not None
    row = _row(
        run, small, quality, plan.after, masks,
        method=method.name, level=method.level, kept_fraction=kept, seconds=spent, check_error=check.error,
        accuracy_before_recovery=raw.accuracy, notes=_notes(plan, method),
        structure=_structure(subject, plan),
    )  # fmt: skip
    return Entry(small, plan, surgery, check, row)


def _recover(run: Contest, method: Method, small: nn.Module, masks: dict[str, Tensor], progress: Progress) -> None:
    recover = run.recipe.recover.options()
    if method.fresh_weights:
        reset_weights_(small, run.seed)
        train_(small, run.data, run.recipe.train.options(), run.seed, progress, "from scratch")
    train_(small, run.data, recover, run.seed, progress, "recover", masks or None)


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
