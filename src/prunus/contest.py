"""One seed of a comparison: the trained dense network, and each method cut, verified, recovered and measured alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunus.errors import BudgetError, DataError
from prunus.export import packed_size
from prunus.measurement.batches import Inputs
from prunus.measurement.latency import LatencyRatio, latency_ratio
from prunus.measurement.quality import Quality, evaluate, flip_rate
from prunus.methods import Method, Subject, subject_of
from prunus.planning import check_weights
from prunus.plans import Cost, Plan
from prunus.progress import Progress, Silent
from prunus.results import LayerChange, Row, Skipped
from prunus.selectors import ignored_axes
from prunus.sources import resolve_data, resolve_model
from prunus.surgery.cut import operate
from prunus.surgery.verify import verify
from prunus.training import LOSSES, TrainingOptions, finetune_, reset_weights_
from prunus.tree.describe import structure_rows
from prunus.workloads.splits import Splits

if TYPE_CHECKING:
    from prunus.recipe import Recipe

_TEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class Contest:
    """One seed of a comparison: the trained dense network and all that is measured against it."""

    recipe: Recipe
    seed: int
    data: Splits
    dense: nn.Module
    subject: Subject
    quality: Quality
    timing: Inputs

    @property
    def captured_batch(self) -> int:
        """How many samples the captured program, and so its MACs, are for."""
        return _batch_of(self.subject.example_inputs)


def prepare(recipe: Recipe, seed: int, progress: Progress, weights: Mapping[str, Tensor] | None = None) -> Contest:
    """Build, train and analyse the dense network of one seed; ``weights`` spares the training."""
    data = resolve_data(recipe.data, recipe.data_args, recipe.base_dir)
    model = resolve_model(recipe.model, recipe.model_args, recipe.base_dir, recipe.checkpoint, seed=seed)
    check_weights(model)
    training = recipe.train.options()
    if weights is None:
        _train(model, data, training, seed, progress, f"train (seed {seed})")
    else:
        model.load_state_dict(weights)
    example = _samples(data, 2)
    subject = subject_of(
        model, example, data.calibration, data.selection, loss=_loss(recipe), seed=seed, progress=progress
    )
    if recipe.ignore:
        held = frozenset(ignored_axes(subject.coupling, recipe.ignore))
        subject = subject_of(model, example, data.calibration, data.selection, loss=subject.loss, seed=seed, held=held,
                             progress=progress)  # fmt: skip
    quality = evaluate(model, data.test.batches(_TEST_BATCH), data.classes)
    return Contest(recipe, seed, data, model, subject, quality, _samples(data, recipe.compare.latency.batch))


def _loss(recipe: Recipe) -> Any:
    from prunus.measurement.batches import logits_of

    function = LOSSES.get(recipe.recover.options().loss)
    return lambda outputs, targets: function(logits_of(outputs), targets)


def _train(
    model: nn.Module, data: Splits, options: TrainingOptions, seed: int, progress: Progress, task: str,
    masks: dict[str, Tensor] | None = None,
) -> None:  # fmt: skip
    if not options.steps:
        return
    progress.start(task, options.steps)
    finetune_(model, data.train, seed=seed, masks=masks, progress=lambda done, steps: progress.advance(task),
              **options.keywords())  # fmt: skip
    progress.finish(task)


def enter(run: Contest, method: Method, kept: float) -> Row | Skipped:
    """Plan, cut, verify, recover and measure one method at one kept share."""
    if method.only_kept is not None and kept not in method.only_kept:
        allowed = ", ".join(f"{k:.0%}" for k in method.only_kept)
        return Skipped(method.name, kept, f"defined at {allowed} kept only")
    started = time.perf_counter()
    subject = run.subject
    try:
        plan = method.plan(subject, kept)
    except BudgetError as error:
        return Skipped(method.name, kept, str(error))
    small, _ = operate(subject.model, subject.coupling, plan, subject.example_inputs)
    check = verify(subject.model, small, subject.coupling, plan, subject.example_inputs, seed=run.seed)
    raw = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    masks = small_masks(plan)
    _recover(run, method, small, masks)
    spent = time.perf_counter() - started
    quality = evaluate(small, run.data.test.batches(_TEST_BATCH), run.data.classes)
    assert plan.after is not None
    return _row(
        run, small, quality, plan.after, masks,
        method=method.name, level=method.level, kept_fraction=kept, seconds=spent, check_error=check.error,
        accuracy_before_recovery=raw.accuracy, notes=_notes(plan, method),
        structure=_structure(subject, plan),
    )  # fmt: skip


def _recover(run: Contest, method: Method, small: nn.Module, masks: dict[str, Tensor]) -> None:
    recover = run.recipe.recover.options()
    if method.fresh_weights:
        reset_weights_(small, run.seed)
        _train(small, run.data, run.recipe.train.options(), run.seed, Silent(), "from scratch")
    _train(small, run.data, recover, run.seed, Silent(), "recover", masks or None)


def small_masks(plan: Plan) -> dict[str, Tensor]:
    """Return the weight masks of a plan in the shapes of the cut model."""
    out = {}
    for name, mask in plan.masks.items():
        value = torch.from_numpy(mask.copy())
        for dim, index in plan.keep.get(name, {}).items():
            value = value.index_select(dim, torch.from_numpy(index))
        out[name] = value
    return out


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
        macs_forward=cost.macs_forward // run.captured_batch,
        macs_backward=cost.macs_backward // run.captured_batch,
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


def _samples(data: Splits, count: int) -> Any:
    """Return the inputs of the first ``count`` test samples; fewer where the split is smaller."""
    inputs = next(islice(_inputs(data, count), 1), None)
    if inputs is None:
        raise DataError("split 'test' is empty; at least 1 sample is needed.")
    return inputs


def _inputs(data: Splits, count: int) -> Iterator[Any]:
    for inputs, _ in data.test.batches(count):
        yield inputs


def _batch_of(inputs: Any) -> int:
    from prunus.measurement.batches import tensors_in

    return int(next(tensors_in(inputs)).shape[0])
