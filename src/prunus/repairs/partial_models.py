"""Repair of a model that was captured in parts: each part by itself, on its inputs in the dense model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.cost.price import cost_model
from prunus.data.batches import call, device_of, moved, tensors_in
from prunus.data.calibration import batches_of
from prunus.data.programs import named
from prunus.errors import DataError, PrunusError, UsageError
from prunus.foundation import clock
from prunus.foundation.as_found import hooked
from prunus.foundation.defaults import DEFAULTS
from prunus.foundation.effort import Effort
from prunus.graph.capture import capture, preserved, unwrap
from prunus.graph.coupling import Coupling, couple
from prunus.graph.partial_capture import Captured
from prunus.plans import Plan, fingerprint
from prunus.repairs.choose_repairs import AUTO
from prunus.repairs.repair_model import NONE, repair_
from prunus.repairs.report import RepairReport
from prunus.repairs.samples import MOST, checked, inputs_of

RECORDED = 2 << 30
"""Largest number of bytes of recorded calls."""
Calls = dict[str, list[Any]]


class _UnfitError(DataError):
    """A batch that does not go through the model."""


class _Part(nn.Module):
    """A part of a model under its names in the whole model; called with one (args, kwargs)."""

    def __init__(self, model: nn.Module, path: str) -> None:
        super().__init__()
        self._path = path
        *parents, name = path.split(".")
        parent: nn.Module = self
        for step in parents:
            parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(name, model.get_submodule(path))

    def forward(self, call: Any) -> Any:
        args, kwargs = call
        return self.get_submodule(self._path)(*args, **kwargs)


def repair_parts_(
    model: nn.Module,
    small: nn.Module,
    captured: Captured,
    plan: Plan,
    data: Any,
    example_inputs: Any,
    *,
    repair: str = AUTO,
    seed: int = 0,
    effort: str | Effort = DEFAULTS.effort,
    options: Mapping[str, bool] | None = None,
) -> RepairReport:
    """Repair the parts of a cut model in place, each by `repair_`.

    The dense model runs on the data, and every call of a part is recorded; on these calls the part is repaired and
    judged. Layers between the parts take no part in the judgement.

    Args:
        small: the network cut from ``captured.model``; its parameters and norm statistics change.
        model: the dense model, whose own forward runs; untouched.
        captured: the parts of the dense model.
        plan: of the cut.
        data: calibration batches, as for `repair_`.
        example_inputs: one call; where its one argument is a list (of pictures, say), so are batches.
        repair, seed, effort: as for `repair_`; the time limit is that of all parts.
        options: keyword arguments of `couple`.

    Raises:
        DataError: no batches, or NaN in them;
        UsageError: a repair was named, and batches do not go through the model, or no part can have it. In these
            cases ``auto`` leaves the network or the part as it is and says so.
    """
    model = unwrap(model)
    cuts = dict[str, tuple[nn.Module, Coupling, Plan | None]]()
    for path, example in zip(captured.parts, captured.inputs, strict=True):
        part = _Part(model, path)
        coupling = couple(capture(part, (example,), method="record"), **(options or {}))
        local = _plan_of(coupling, plan, path)
        if local is None or not local.is_empty:
            cuts[path] = part, coupling, local
    try:
        calls = _recorded(model, tuple(cuts), data, example_inputs)
    except _UnfitError as error:
        if repair != AUTO:
            raise
        return RepairReport(NONE, repair, 0, notes=(f"not repaired: {error}",))
    reports, notes, refused = dict[str, RepairReport](), list[str](), list[UsageError]()
    started, asked = clock.seconds(), effort if isinstance(effort, Effort) else Effort.of(effort)
    for path, cut in cuts.items():
        left = asked.after(clock.seconds() - started)
        try:
            reports[path] = _repair_part_(small, *cut, calls[path], repair=repair, seed=seed, effort=left)
        except UsageError as error:
            refused.append(error)
            notes.append(f"{path}: not repaired: {error}")
    if refused and not reports and repair != AUTO:
        raise refused[0]
    return _merged(reports, notes, repair)


def _repair_part_(
    small: nn.Module, part: nn.Module, coupling: Coupling, plan: Plan | None, calls: Sequence[Any], **how: Any
) -> RepairReport:
    if plan is None:
        raise UsageError("alone it has other axes than in the whole")
    if not calls:
        raise UsageError("the data never reach it")
    return repair_(part, small, coupling, plan, [((call,),) for call in calls], **how)


def _plan_of(coupling: Coupling, plan: Plan, path: str) -> Plan | None:
    """Return the plan of one part; None where its axes differ from those of the whole model."""
    own = path + "."
    axes = {a: mask for a, mask in plan.axes.items() if a in coupling.axes}
    masks = {name: mask for name, mask in plan.masks.items() if name.startswith(own)}
    cost = cost_model(coupling)
    before, after, kept = cost.price(), cost.price(axes), coupling.tensor_masks(axes)
    local = Plan(fingerprint(coupling.graph), axes, kept, masks=masks, before=before, after=after)
    expected = {name: dims for name, dims in plan.keep.items() if name.startswith(own)}
    return local if _lists(local.keep) == _lists(expected) else None


def _lists(keep: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[int, list[int]]]:
    lists = {name: {dim: index.tolist() for dim, index in dims.items()} for name, dims in keep.items()}
    return {name: dims for name, dims in lists.items() if dims}


def _recorded(model: nn.Module, parts: Sequence[str], data: Any, example_inputs: Any) -> Calls:
    """Run the dense model on the data, and return the calls of every part as (args, kwargs)."""
    calls: Calls = {path: [] for path in parts}
    samples = size = 0
    device = device_of(model)

    def recorder(path: str) -> Any:
        def record(_: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal size
            call = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
            tensors = list(tensors_in(call))
            if tensors and all(t.numel() for t in tensors):
                calls[path].append(call)
                size += sum(t.numel() * t.element_size() for t in tensors)

        return record

    hooks = (model.get_submodule(p).register_forward_pre_hook(recorder(p), with_kwargs=True) for p in parts)
    with hooked(hooks), preserved(model), torch.no_grad():
        for number, batch in enumerate(batches_of(data)):
            inputs = as_example(checked(moved(inputs_of(batch, number), device), number), example_inputs)
            _run(model, inputs, number)
            samples += _samples(inputs)
            if samples >= MOST or size >= RECORDED:
                break
    if not samples:
        raise DataError("no calibration batches; give at least one batch of inputs. Was the iterator used up?")
    return calls


def _run(model: nn.Module, inputs: Any, number: int) -> None:
    try:
        call(model, inputs)
    except PrunusError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _UnfitError(
            f"calibration batch {number} does not go through the model: {first} Give inputs as example_inputs are."
        ) from error


def as_example(inputs: Any, example_inputs: Any) -> Any:
    """Return inputs in the form of the example: as one list where it has one, or as a mapping with the same keys."""
    if isinstance(inputs, Mapping) and isinstance(example_inputs, Mapping):
        return named(inputs, tuple(example_inputs))
    takes_list = isinstance(example_inputs, (list, tuple)) and len(example_inputs) == 1
    if not takes_list or not isinstance(example_inputs[0], list) or not isinstance(inputs, tuple):
        return inputs
    return (list(inputs[0] if len(inputs) == 1 and isinstance(inputs[0], tuple) else inputs),)


def _samples(inputs: Any) -> int:
    """Count the samples of a call: the length of its list, or of its first tensor."""
    if isinstance(inputs, tuple) and isinstance(inputs[0], list):
        return len(inputs[0])
    return len(next(tensors_in(inputs), ()))


def _merged(reports: Mapping[str, RepairReport], notes: Sequence[str], requested: str) -> RepairReport:
    chosen = sorted({report.chosen for report in reports.values()} - {NONE})
    texts = [f"{path}: {str(report).removeprefix('repair: ')}" for path, report in reports.items()]
    return RepairReport(
        "+".join(chosen) or NONE,
        requested,
        max((report.samples for report in reports.values()), default=0),
        layers=tuple(layer for report in reports.values() for layer in report.layers),
        notes=(*texts, *notes),
        stopped=any(report.stopped for report in reports.values()),
    )
