"""`recover_`: train a small network to regain the quality of the dense one, on data of any form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from prunus.data.batches import DataSource
from prunus.data.calling import called
from prunus.data.learning import NO_LABELS, as_often_as_needed, learning_data
from prunus.errors import CaptureError
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.graph.call_form import CallForm, as_called
from prunus.graph.capture import capture, unwrap
from prunus.graph.coupling import Coupling, couple, opted_in
from prunus.plans import Plan
from prunus.recovery import AUTOPILOT, RecoveryOptions, RecoveryReport, RecoveryTask, recovered_
from prunus.surgery.tensors import sliced_masks

_EXAMPLES = 2


@in_ordinary_mode
def recover_(
    dense: nn.Module,
    small: nn.Module,
    data: Any,
    recover: Mapping[str, Any] | RecoveryOptions,
    *,
    held_out: Any = None,
    plan: Plan | None = None,
    masks: Mapping[str, Tensor] | None = None,
    example_inputs: Any = None,
    seed: int = 0,
) -> RecoveryReport:
    """Train a small network in place; it is never worse on held-out data than before, and masked weights stay zero.

    The autopilot measures norm statistics again, refits weights where it can, gives block-wise reconstruction,
    distillation and fine-tuning a short trial each, continues with the best, and stops when the curve is flat.

    Args:
        dense: the network before the cut; the teacher, which is not changed.
        small: the network to train; its modes are restored.
        data: a DataLoader, a dataset, or batches: (inputs, labels), a mapping with ``labels``, or inputs alone. Without
            labels the dense network's outputs take their place.
        recover: ``{"steps": 500}`` or ``{"minutes": 10}``, and further options: ``method`` (autopilot,
            statistics, refold, blocks, distil, finetune), ``lr``, ``batch_size``, ``optimizer``, ``weight_decay``,
            ``loss`` (a name or (output, targets) → loss), ``schedule``, ``temperature``, ``soft``, ``hints``,
            ``mixed``, ``dropout``.
        held_out: data that decide between candidates; by default a tenth of ``data`` is set aside.
        plan: the plan by which ``small`` was cut; blocks of other widths can be compared only with it.
        masks: parameter name → True = keep; those of the plan by default.
        example_inputs: one call of ``dense``; the first samples of ``data`` by default.
        seed: the seed of the batch order and of all random numbers; the same call gives the same weights.

    Returns:
        A report of every trial, its gain and the reason for the next; printing it shows a line each.

    Raises:
        OptionError: no steps, no time, an unknown option or name.
        ModelError: the two networks have outputs of different shapes.
        DataError: no data, or labels that do not fit the loss.
    """
    options = RecoveryOptions.of(recover)
    data, teacher = as_often_as_needed(data), unwrap(dense)
    example = as_called(teacher, _example(learning_data(data)[0]) if example_inputs is None else example_inputs)
    calls = CallForm(example)
    train, deciding, labelled = learning_data(called(data, calls), called(as_often_as_needed(held_out), calls))
    task = RecoveryTask(
        unwrap(small),
        teacher,
        train,
        deciding,
        options,
        masks=masks if masks is not None else sliced_masks(plan) if plan is not None else {},
        plan=plan,
        coupling=_coupling(teacher, example, plan),
        example_inputs=example,
        seed=seed,
        labelled=labelled,
    )
    report = recovered_(task)
    return report if labelled else replace(report, notes=(*report.notes, NO_LABELS))


def _example(train: DataSource) -> Any:
    inputs = next(iter(train.batches(_EXAMPLES)))[0]
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[:_EXAMPLES], inputs)


def _coupling(dense: nn.Module, example: Any, plan: Plan | None) -> Coupling | None:
    """Return the coupling of the dense network; None skips methods that compare blocks."""
    options = opted_in(plan.settings.get("opt_in", ())) if plan is not None else {}
    try:
        return couple(capture(dense, example), **options)
    except CaptureError:
        return None


__all__ = ["AUTOPILOT", "recover_"]
