"""Later work on an outcome: repair, recover, verify and export it; the outcome itself does not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.analysis.analyse import check_held_out, check_seed, data_given
from prunus.analysis.input_size import of_plan, resized
from prunus.data.batches import answer, device_of, moved
from prunus.data.calibration import batches_of, evaluating
from prunus.data.given import sources_of
from prunus.data.learning import as_often_as_needed
from prunus.errors import OptionError, UsageError, VerifyError
from prunus.exporters import save
from prunus.exporters.exporter import exporter_to_write
from prunus.foundation.arguments import door
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.effort import Effort
from prunus.foundation.progress import Progress
from prunus.graph.call_form import as_called
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.outcome.calls import Calls, CallTable, Subject, call_table
from prunus.outcome.cutting import cut_proved
from prunus.outcome.realising import recovered, repaired
from prunus.outcome.record import Outcome
from prunus.outcome.training import Recover, recovery_of
from prunus.plans import Plan
from prunus.repairs import check_repair
from prunus.repairs.partial_models import as_example
from prunus.repairs.samples import checked, inputs_of
from prunus.surgery.copy_module import deep_copy
from prunus.surgery.proving.verify import Check
from prunus.surgery.proving.verify import verify as verify_cut


@in_ordinary_mode
def repair(
    found: Outcome,
    data: Any = None,
    *,
    repair: str = DEFAULTS.repair,
    effort: str | None = None,
    time_limit: float | str | None = None,
    memory_limit: int | str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Return an outcome whose weights are refitted to the dense network's outputs, without labels.

    Args:
        found: any outcome that knows its dense network.
        data: batches of inputs, with or without targets; by default the data of its analysis.
        repair: ``auto`` or the name of a repair, as in `prunus.repair_`.
        effort, time_limit, memory_limit: as in `prunus.prune`; by default those with which the outcome was made.
        progress: reports every long step.

    Raises:
        UsageError: the outcome does not know its dense network.
        OptionError: an unknown repair or effort, a limit that is none, or no data.
        DataError: the network does not accept the data.
    """
    check_repair(repair)
    ready = _with_data(found, data)
    if data is not None:
        _check_goes_through(ready)
    own = ready.analysis.effort if ready.analysis is not None else Effort()
    given = Effort.of(
        own.level if effort is None else effort,
        own.time_limit if time_limit is None else time_limit,
        own.memory_limit if memory_limit is None else memory_limit,
    )
    return repaired(ready, repair, effort=given, progress=progress)


@in_ordinary_mode
def recover(found: Outcome, data: Any = None, recover: Recover = None, *, held_out: Any = None) -> Outcome:
    """Return an outcome whose network was trained to regain its quality; on held-out data it is never worse.

    Args:
        found: any outcome that knows its dense network.
        data: training data, as in `prunus.recover_`; by default the data of its analysis.
        recover: ``{"steps": 500}`` or ``{"minutes": 10}`` with the options of `prunus.recover_`.
        held_out: data that decide between candidates; by default a tenth of ``data``.

    Raises:
        UsageError: the outcome does not know its dense network.
        OptionError: no budget for the training, an unknown option, or no data.
        DataError: the network does not accept the data, or labels do not fit the loss.
    """
    if recover is None:
        raise OptionError('recover takes one budget: {"steps": 500} or {"minutes": 10}; give just one of them.')
    ready = _with_data(found, data, held_out)
    return recovered(ready, recovery_of(recover, has_data=True))


@in_ordinary_mode
def verify(
    model: Outcome | nn.Module,
    small: nn.Module | None = None,
    coupling: Coupling | None = None,
    plan: Plan | None = None,
    example_inputs: Any = None,
    *,
    seed: int = 0,
    gradients: bool = False,
    thorough: bool = False,
) -> Check:
    """Verify a cut again: that of an outcome, or of a model, its cut network, its coupling and plan.

    The original of an outcome is cut again by its plan, for repair and recovery have changed the weights since.

    Args:
        model: an outcome; or the original network, and then the next four arguments are needed too.
        small: the cut network.
        coupling: the coupling of the original.
        plan: the plan of the cut.
        example_inputs: one call of the original.
        seed: the seed of the noise.
        gradients: compare the gradients of the parameters too.
        thorough: make every call of the built-in table too, with the outcome's own network; see `check_calls`.

    Raises:
        VerifyError: cut and masked network differ, or a call that the original takes fails or differs.
        UsageError: the outcome does not know its original, or one of the five is missing.
    """
    check_seed(seed)
    if isinstance(model, Outcome):
        analysis = _original(model)
        dense, coupling, plan, example_inputs = analysis.model, analysis.coupling, model.plan, analysis.example_inputs
        small, seed = cut_proved(dense, coupling, plan, example_inputs, prove=False).model, analysis.seed
        check = verify_cut(dense, small, coupling, plan, example_inputs, seed=seed, gradients=gradients)
        if thorough:
            _insist(check_calls(model))
        return check
    if thorough:
        raise UsageError("thorough needs an outcome, which knows how it was cut; give prunus.verify(outcome).")
    if small is None or coupling is None or plan is None:
        raise UsageError(
            "verify needs an outcome, or model, small, coupling, plan and example_inputs; give prunus.verify(outcome)."
        )
    example_inputs = as_called(unwrap(model), example_inputs)
    return verify_cut(model, small, coupling, plan, example_inputs, seed=seed, gradients=gradients)


@in_ordinary_mode
def check_calls(found: Outcome, calls: Calls = None, *, progress: Progress | None = None) -> CallTable:
    """Call an outcome's network and its dense network under the plan's masks, and compare the results.

    The reference is the user's own module: removed slices at zero, averages over kept positions only. Constants are
    perturbed as in `verify`. A call that the dense network does not take neither passes nor fails: n/a.

    Args:
        found: any outcome that knows its dense network.
        calls: None for the built-in table (training, other sizes, masks, labels, caches, generation, other types,
            copies, files, export, hooks), names of rows of it, or name → a function of the model, or ``(args,
            kwargs)``.
        progress: reports every call.

    Raises:
        UsageError: the outcome does not know its dense network.
        OptionError: an unknown name, or a value that is no call.
        CaptureError: the calls of this network cannot be compared; the message says why.

    Example:
        >>> import torch
        >>> import prunus
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> cut = prunus.prune(net, torch.randn(2, 8), budget={"params": 0.5})
        >>> prunus.check_calls(cut, {"one": ((torch.randn(1, 8),), {})}).ok
        True
    """
    analysis = of_plan(_original(found), found.plan)
    coupling = analysis.coupling
    if not found.plan.axes.keys() <= coupling.axes.keys():
        coupling = couple(coupling.graph, **coupling.options)
    subject = Subject(
        dense=analysis.user_model,
        inputs=analysis.user_inputs,
        captured=analysis.model,
        captured_inputs=analysis.example_inputs,
        parts=analysis.parts,
        coupling=coupling,
        plan=found.plan,
        model=found.model,
        surgery=found.surgery,
        seed=analysis.seed,
        original=(analysis.unbridged or analysis).user_model,
    )
    return call_table(subject, calls, progress)


def _insist(table: CallTable) -> None:
    failures = table.failures
    if failures:
        lines = "; ".join(f"{row.name} {row.verdict}: {row.reason}" for row in failures[:3])
        more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise VerifyError(
            f"The cut {table.model} does not take every call that the dense one takes: {lines}{more}. "
            "prunus.check_calls(outcome) shows all; hold the axes behind it, or use the calls that are ok."
        )


@door()
def export(
    found: Outcome,
    path: Path | str,
    *,
    format: str | None = None,
    example_inputs: Any = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network for use without prunus: a program (``.pt2``) or a Hugging Face folder.

    Args:
        found: any outcome.
        path: the file or folder to write.
        format: ``pt2`` or ``huggingface``; by default ``pt2`` for a path that ends so, else ``huggingface``.
        example_inputs: one call; by default that of the outcome.
        metadata: anything with a JSON form, for ``pt2``.

    Raises:
        OptionError: another format; ``prunus.save`` writes checkpoints.
        ModelError: the network cannot be stored in this format; nothing is written.
    """
    chosen = exporter_to_write(path, format, "huggingface").name
    if chosen == "checkpoint":
        raise OptionError("export writes what is used without prunus; for a checkpoint use prunus.save.")
    return save(found, path, format=chosen, example_inputs=example_inputs, metadata=metadata)


def _original(found: Outcome) -> Any:
    if found.analysis is None or found.analysis.model is found.model:
        raise UsageError(
            "this outcome does not know its dense network, which was cut in place or is not at hand; use "
            "prunus.repair_, recover_ or verify with the dense network."
        )
    return found.analysis


def _check_goes_through(found: Outcome) -> None:
    """Run the dense network on the first batch, so that unsuitable data fail here and not inside a repair."""
    analysis = _original(found)
    first = next(iter(batches_of(analysis.given.data)), None)
    if first is None:
        return  # the repair itself refuses empty data
    model = analysis.user_model
    inputs = as_example(checked(moved(inputs_of(first), device_of(model)), 0), analysis.user_inputs)
    with evaluating(model), torch.no_grad():
        answer(model, inputs)


def _with_data(found: Outcome, data: Any, held_out: Any = None) -> Outcome:
    """Return a copy with its own network and with the given data."""
    analysis = _original(found)
    if data is None and not analysis.has_data:
        raise OptionError("this outcome has no data; pass data=batches.")
    if data is not None:
        check_held_out(data, held_out)
        data = as_often_as_needed(data)
        batches_of(data, "data")
        given = data_given(data, held_out, analysis.user_inputs)
        given = replace(given, data=resized(analysis, given.data), held_out=resized(analysis, given.held_out))
        calibration, selection = sources_of(given)
        analysis = replace(analysis, given=given, calibration=calibration, selection=selection, memo={})
    return replace(found, model=deep_copy(found.model), analysis=analysis)
