"""`repair_`: try repairs, judge them on samples that none of them saw, and keep the best one, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prunus.data.batches import device_of
from prunus.data.programs import names_of
from prunus.errors import DataError, OptionError, UsageError, nearest
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.free_memory import default_memory
from prunus.foundation.progress import Progress, Silent
from prunus.graph.call_form import CallForm
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import refs_in
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan
from prunus.repairs.blocks import BlockTuning
from prunus.repairs.choose_repairs import AUTO, Effort, candidates
from prunus.repairs.layerwise_run import LayerwiseRun, RunContext, RunResult, run_context
from prunus.repairs.matching import matched
from prunus.repairs.mixup import COPIES, with_blends
from prunus.repairs.repairs import REPAIRS, Repair, SiteRepairer
from prunus.repairs.report import RepairReport
from prunus.repairs.rnn_cells import tensors_of
from prunus.repairs.room import room_for_values
from prunus.repairs.samples import LEAST, MOST, sample_groups_of, samples_that_fit

NONE = "none"
_NOTHING = 1e-12


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
    progress: Progress | None = None,
    memory: int | None = None,
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
        progress: receives the steps of ``matching``, the only repair that takes long.
        memory: bytes that values and solves may take. Fewer samples are used where their values do not fit, and layers
            too wide for it are fitted to a part of their rows. By default a quarter of what is free.

    Raises:
        OptionError: an unknown repair.
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
    memory = default_memory() if memory is None else memory
    return _repaired_(model, small, coupling, plan, data, repair, seed, progress or Silent(), memory)


def _repaired_(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    data: Any,
    repair: str,
    seed: int,
    progress: Progress,
    memory: int,
) -> RepairReport:
    own = {name: tensor.detach() for name, tensor in named_tensors(unwrap(small)).items()}
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
    chosen, effort, notes = candidates(repair, context, plan, copies)
    best = _best(context, chosen, effort, progress)
    _write_(small, best)
    notes = (*notes, *best.notes, *_memory_note(samples, most, memory), *_unfitted_note(context))
    return RepairReport(best.name, repair, samples, best.before, best.after, best.tried, tuple(best.layers), notes)


def _check_enough(samples: int, groups: int, most: int, memory: int) -> None:
    if samples >= LEAST and groups > 1:
        return
    if most < LEAST:
        raise DataError(
            f"{LEAST} calibration samples, which a repair needs, would take more than {_told(memory)}. Give more "
            "memory, or smaller ones: shorter sequences, pictures of a lower resolution."
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


def _best(context: RunContext, repairs: list[Repair], effort: Effort, progress: Progress) -> _Best:
    before = LayerwiseRun(context, absorb=False).errors_without_repair()["held"]
    if not _has_float_output(context):
        return _Best(NONE, None, before, before, {}, notes=("not repaired: no output is of floating-point numbers",))
    if before < _NOTHING:
        return _Best(NONE, None, before, before, {}, notes=("the outputs are those of the dense network",))
    tried: dict[str, float] = {}
    best = _Best(NONE, None, before, before, tried)
    for repair in repairs:
        repairer = SiteRepairer(repair, context)
        result = _run_repair(context, repairer, effort, progress)
        after = result.errors["held"]
        tried[repair.name] = after
        if after < best.after:
            best = _Best(repair.name, result, before, after, tried, repairer.layers)
    if best.result is None:
        errors = ", ".join(f"{name} {error:.2%}" for name, error in tried.items())
        return _Best(NONE, None, before, before, tried, notes=(f"taken back, for it did not help: {errors}",))
    return best


def _has_float_output(context: RunContext) -> bool:
    """Return True if the network has an output that can be compared."""
    graph = context.programs.first.dense
    metas = [graph.meta(ref) for ref in refs_in(list(graph.outputs))]
    return any(meta.dtype.is_floating_point for meta in metas)


def _run_repair(context: RunContext, repairer: SiteRepairer, effort: Effort, progress: Progress) -> RunResult:
    repair = repairer.repair
    if not repair.tunes:
        return LayerwiseRun(context, absorb=repair.absorb, layers=repair.layer is not None).run(repairer)
    blends = with_blends(context, effort.copies)
    if not repair.matches:
        return BlockTuning(blends, repairer).run()
    layer_run = BlockTuning(blends, repairer, last_steps=0).finished_run()
    layer_run.replace(matched(context, layer_run.tensors, repairer.masks, effort.steps, progress))
    errors = LayerwiseRun(replace(context, small=layer_run.tensors), absorb=False).errors_without_repair()
    return RunResult(layer_run.tensors, frozenset(layer_run.changed), errors)


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
