"""`repair_`: try repairs, judge them on samples that none of them saw, and keep the best one, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.data.batches import device_of
from prunus.data.programs import names_of
from prunus.errors import DataError, OptionError, UsageError, nearest
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress, Silent, tell
from prunus.foundation.stopping import StoppedError, Watch, stoppable
from prunus.graph.call_form import CallForm
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import refs_in
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.repairs.blocks import BlockTuning
from prunus.repairs.choose_repairs import AUTO, Work, candidates
from prunus.repairs.layerwise_run import LayerwiseRun, RunContext, RunResult, SiteProblem, run_context
from prunus.repairs.matching import matched
from prunus.repairs.mixup import COPIES, with_blends
from prunus.repairs.repairs import REPAIRS, Repair, SiteRepairer
from prunus.repairs.report import RepairReport
from prunus.repairs.rnn_cells import tensors_of
from prunus.repairs.room import room_for_values
from prunus.repairs.samples import LEAST, MOST, sample_groups_of, samples_that_fit

NONE = "none"
_NOTHING = 1e-12
_TASK = "repair"


def check_repair(name: str | None) -> None:
    """Refuse an unknown name of a repair.

    Raises: OptionError: the name is not one of ``auto``, ``none`` or the registered repairs.
    """
    if name is not None and not (isinstance(name, str) and (name in (AUTO, NONE) or name in REPAIRS)):
        allowed = (AUTO, NONE, *REPAIRS.names())
        raise OptionError(f"repair {name!r} is unknown.{nearest(str(name), allowed)} Allowed: {', '.join(allowed)}.")


@in_ordinary_mode
def repair_(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    data: Any,
    *,
    repair: str = AUTO,
    seed: int = 0,
    effort: str | Effort = DEFAULTS.effort,
    time_limit: float | str | None = DEFAULTS.time_limit,
    memory_limit: int | str | None = DEFAULTS.memory_limit,
    progress: Progress | None = None,
) -> RepairReport:
    """Bring a cut network closer to the dense one: no labels, no training, weights changed in place.

    Part of the samples is held out. A repair that does not bring the outputs closer to the dense network's on those is
    undone, and the report says so: the network is never worse than before.

    Args:
        model: the dense network; untouched.
        small: the network that `cut` returned for ``model``; its parameters and norm statistics change.
        coupling: its analysis.
        plan: of the cut. Weights that its masks zero stay zero.
        data: calibration batches: inputs, (inputs,) or (inputs, targets); targets are ignored.
        repair: ``auto``, or ``statistics``, ``bias``, ``scales``, ``refold``, ``blockwise``, ``matching``, ``none``.
        seed: of the rows drawn from large layers, and of the samples drawn and blended where a repair trains.
        effort: the work of ``auto``: ``seconds`` (closed-form repairs), ``minutes`` (then rounds of ``matching`` while
            they pay) or ``best`` (all repairs, with up to sixteen times the work).
        time_limit: seconds, or a text such as ``"5min"``, after which the best repair so far is kept. Ctrl-C keeps it
            too; a second one interrupts.
        memory_limit: bytes, or a text such as ``"4GB"``, for values and solves. Fewer samples are used where their
            values do not fit, and layers too wide for it are fitted to a part of their rows. By default a quarter of
            the free memory.
        progress: receives the repairs, the steps of ``matching`` and the error after each of its rounds.

    Raises:
        OptionError: an unknown repair or effort, or a limit that is none.
        DataError: no batches, NaN, batches that do not go through the model, or fewer than 4 samples for a repair that
            was named;
        ModelError: the model draws random numbers in eval mode.
            In these cases ``auto`` leaves the network as it is and says so, except that it too refuses empty data and
            NaN.

    Example:
        ``report = prunus.repair_(model, small, coupling, plan, batches); print(report)``
    """
    check_repair(repair)
    if repair == NONE:
        return RepairReport(NONE, repair, 0)
    asked = effort if isinstance(effort, Effort) else Effort.of(effort, time_limit, memory_limit)
    return _repaired_(model, small, coupling, plan, data, repair, seed, asked, progress or Silent())


def _repaired_(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    data: Any,
    repair: str,
    seed: int,
    effort: Effort,
    progress: Progress,
) -> RepairReport:
    own = {name: tensor.detach() for name, tensor in named_tensors(unwrap(small)).items()}
    memory = effort.memory
    fitting = samples_that_fit(coupling, memory)
    most = min(MOST, fitting)
    calls = CallForm.of_graph(coupling.graph)
    groups = sample_groups_of(data, device_of(model), names=names_of(model, coupling.graph), calls=calls, most=most)
    samples = sum(group.count for group in groups)
    try:
        _check_enough(samples, len(groups), most, memory)
        context = run_context(model, coupling, plan, groups, small=own, seed=seed, memory=memory)
    except UsageError as error:
        if repair != AUTO:
            raise
        return RepairReport(NONE, repair, samples, notes=(f"not repaired: {error}",))
    copies = max(0, min(COPIES, fitting // samples - 1))
    chosen, work, notes = candidates(repair, context, plan, copies, effort)
    with stoppable(effort.time_limit, by_hand=effort.by_hand) as watch:
        best = _best(context, chosen, work, watch, progress)
    _write_(small, best)
    notes = (*notes, *best.notes, *_memory_note(samples, most, memory), *_unfitted_note(context))
    layers = tuple(best.layers)
    return RepairReport(best.name, repair, samples, best.before, best.after, best.tried, layers, notes, watch.by_hand)


def _check_enough(samples: int, groups: int, most: int, memory: int) -> None:
    if samples >= LEAST and groups > 1:
        return
    if most < LEAST:
        raise DataError(
            f"{LEAST} calibration samples, which a repair needs, would take more than {_told(memory)}, which hold "
            f"{most}. Allow memory_limit={_size(memory * LEAST / most)!r}, or give smaller ones: shorter sequences, "
            "pictures of a lower resolution."
        )
    raise DataError(
        f"a repair got {samples} calibration samples in {groups} parts; it needs at least {LEAST} in 2, some to fit "
        "and some to judge. Give more data."
    )


@dataclass(frozen=True, slots=True)
class _Best:
    """The best repair so far: its name, its end, and the errors before and after it."""

    name: str
    result: RunResult | None
    before: float
    after: float
    tried: Mapping[str, float]
    layers: Sequence[Any] = ()
    notes: tuple[str, ...] = ()


def _best(context: RunContext, repairs: list[Repair], work: Work, watch: Watch, progress: Progress) -> _Best:
    before = LayerwiseRun(context, absorb=False).errors_without_repair()["held"]
    if not _has_float_output(context):
        return _Best(NONE, None, before, before, {}, notes=("not repaired: no output is of floating-point numbers",))
    if before < _NOTHING:
        return _Best(NONE, None, before, before, {}, notes=("the outputs are those of the dense network",))
    tried: dict[str, float] = {}
    best = _Best(NONE, None, before, before, tried)
    waiting, notes = list(repairs), list[str]()
    progress.start(_TASK, len(waiting))
    while waiting and not watch.over():
        repair = waiting.pop(0)
        repairer = _Watched(repair, context, watch)
        try:
            result = _run_repair(context, repairer, work, best, watch, progress)
        except StoppedError:
            break
        after = result.errors["held"]
        tried[repair.name] = after
        tell(progress, f"repair {repair.name}: outputs off by {before:.2%} before and {after:.2%} after")
        if after < best.after:
            best = _Best(repair.name, result, before, after, tried, repairer.layers or best.layers)
        elif repair.name == "refold":
            waiting = [*work.instead, *waiting]
        progress.advance(_TASK)
    progress.finish(_TASK)
    if watch.over():
        notes.append(f"{watch.over()}; the best so far is kept")
    if best.result is None:
        errors = ", ".join(f"{name} {error:.2%}" for name, error in tried.items())
        notes += [f"taken back, for it did not help: {errors}"] if errors else []
    return replace(best, notes=tuple(notes))


class _Watched(SiteRepairer):
    """A repair that ends at once where the watch is over: a layer-wise run has no result before its end."""

    def __init__(self, repair: Repair, context: RunContext, watch: Watch) -> None:
        super().__init__(repair, context)
        self._watch = watch

    def __call__(self, problem: SiteProblem) -> Mapping[str, Tensor]:
        """Return the new tensors of a site."""
        if self._watch.over():
            raise StoppedError
        return super().__call__(problem)


def _has_float_output(context: RunContext) -> bool:
    """Return True if the network has an output that can be compared."""
    graph = context.programs.first.dense
    metas = [graph.meta(ref) for ref in refs_in(list(graph.outputs))]
    return any(meta.dtype.is_floating_point for meta in metas)


def _run_repair(
    context: RunContext, repairer: SiteRepairer, work: Work, best: _Best, watch: Watch, progress: Progress
) -> RunResult:
    repair = repairer.repair
    if not repair.tunes:
        return LayerwiseRun(context, absorb=repair.absorb, layers=repair.layer is not None).run(repairer)
    if not repair.matches:
        return BlockTuning(with_blends(context, work.copies), repairer).run()
    tensors, changed = dict(context.small), set[str]()
    if work.blocks:
        layer_run = BlockTuning(with_blends(context, work.copies), repairer, last_steps=0).finished_run()
        tensors, changed = dict(layer_run.tensors), set(layer_run.changed)
    elif best.result is not None:
        tensors, changed = dict(best.result.tensors), set(best.result.changed)
    held = replace(context, sample_groups=tuple(group for group in context.sample_groups if group.role == "held"))

    def judge(state: Mapping[str, Tensor]) -> float:
        run = LayerwiseRun(replace(held, small={k: v.detach() for k, v in state.items()}), absorb=False)
        return run.errors_without_repair()["held"]

    found = matched(context, tensors, repairer.masks, work.rounds, judge, watch=watch, progress=progress)
    tensors.update(found.tensors)
    return RunResult(tensors, frozenset(changed | found.tensors.keys()), {"held": found.error})


@torch.no_grad()
def _write_(small: nn.Module, best: _Best) -> None:
    """Write the tensors that the best repair changed into the small network."""
    if best.result is None:
        return
    own = named_tensors(unwrap(small))
    for name in best.result.changed:
        own[name].copy_(best.result.tensors[name])


def _memory_note(samples: int, most: int, memory: int) -> tuple[str, ...]:
    if samples < most or most >= MOST:
        return ()
    return (f"more than {most} samples would take more than {_told(memory)}",)


def _told(memory: int) -> str:
    mebibytes = room_for_values(memory) / (1 << 20)
    return f"{mebibytes:.3g} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.3g} GiB"


def _size(memory: float) -> str:
    """Return bytes as a text that `memory_limit` takes."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if memory >= unit:
            return f"{math.ceil(10 * memory / unit) / 10:g}{name}"
    return f"{max(1, math.ceil(memory / 1024))}KiB"


def _unfitted_note(context: RunContext) -> tuple[str, ...]:
    """Name the weights that no site refits, such as tied ones."""
    graph = context.programs.first.small
    sites = {name for site in context.sites.values() for name in tensors_of(site)}
    left = [
        name
        for name, info in graph.tensors.items()
        if info.kind == "parameter" and len(info.shape) > 1 and name not in sites
    ]
    if not left:
        return ()
    shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    return (f"{len(left)} tensors are not refitted (read more than once, or not a layer's): {shown}",)
