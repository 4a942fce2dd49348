"""Calibration batches without labels: checked, divided into sample groups, each group with its role in a repair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.cost.memory import memory_model
from prunus.data.batches import moved
from prunus.data.calibration import batches_of
from prunus.data.programs import named
from prunus.errors import DataError
from prunus.graph.call_form import CallForm
from prunus.graph.capture import split_inputs
from prunus.graph.coupling import Coupling
from prunus.repairs.room import room_for_values

Role = Literal["fit", "check", "held"]

LARGEST = 64
"""Largest number of samples in a group."""
MOST = 1024
"""Samples that a repair reads at most."""
LEAST = 4
"""Samples that a repair needs at least: it fits on some and is judged on others."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleGroup:
    """Calibration samples that go through both programs together.

    Sample groups have three roles: ``fit`` groups are fitted, ``check`` groups select among the fits of a layer, and
    ``held`` groups judge whole repairs.
    """

    inputs: Any
    count: int
    role: Role


def sample_groups_of(
    data: Any, device: torch.device, *, names: Sequence[str] = (), calls: CallForm | None = None, most: int = MOST
) -> tuple[SampleGroup, ...]:
    """Return the calibration samples as groups of equal size, in stored order.

    Batches of one form are joined and divided anew, so that results do not depend on the batch size; other
    batches each form a group. Targets are ignored.

    Args:
        data: batches: inputs, (inputs,) or (inputs, targets); or a split with ``batches()``; or one tensor of samples.
        device: the device of the model; batches are moved there.
        names: the model's arguments in the order of its program, see `prunus.data.programs.names_of`; other entries of
            a mapping, such as labels, are left out.
        calls: the form in which the model is called; batches take that form.
        most: samples after which no further batch is read: a loader may go over a whole training set.

    Raises:
        DataError: no batches, NaN or infinity other than in masks of 0 and −∞, or an empty batch.
    """
    given, seen = [], 0
    for number, batch in enumerate(batches_of(data)):
        batch = batch if calls is None else calls.batch(batch)
        given.append(checked(named(inputs_of(batch, number), names), number))
        seen += _samples(given[-1])
        if seen >= most:
            break
    if not given:
        raise DataError("no calibration batches; give at least one batch of inputs. Was the iterator used up?")
    pieces = _regrouped(given, most)
    roles = _roles(len(pieces))
    return tuple(
        SampleGroup(moved(inputs, device), _samples(inputs), role) for inputs, role in zip(pieces, roles, strict=True)
    )


def inputs_of(batch: Any, number: int = 0) -> Any:
    """Return the inputs of a batch: the batch itself, or the first of one or two parts.

    Raises: DataError: a sequence of more parts.
    """
    if isinstance(batch, (Tensor, Mapping)):
        return batch
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) in (1, 2):
        return batch[0]
    what = f"{len(batch)} parts" if isinstance(batch, Sequence) else type(batch).__name__
    raise DataError(
        f"calibration batch {number} is {what}; allowed: inputs, (inputs,) or (inputs, targets), inputs being a "
        "tensor, a tuple of arguments or a dict of them. Wrap several arguments as ((a, b), None)."
    )


def _tensors(inputs: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(split_inputs(inputs)) if isinstance(x, Tensor)]


def checked(inputs: Any, number: int) -> Any:
    """Return the inputs of a batch as they are.

    Raises: DataError: no samples, NaN or infinity other than in masks of 0 and −∞, or tensors without values.
    """
    tensors = _tensors(inputs)
    if not tensors or any(t.dim() == 0 or not len(t) for t in tensors[:1]):
        raise DataError(f"calibration batch {number} holds no samples; give tensors with the samples on dim 0.")
    for tensor in tensors:
        if tensor.is_meta:
            raise DataError(f"calibration batch {number} is on device 'meta' and has no values; allowed: cpu or a GPU.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()) and not _is_mask(tensor):
            raise DataError(
                f"calibration batch {number} holds NaN or infinity; moments of it would say nothing. Clean the data."
            )
    return inputs


def _is_mask(tensor: Tensor) -> bool:
    """Return True for a mask that is added to attention scores: every value is 0 or −∞."""
    return bool(((tensor == 0) | (tensor == -torch.inf)).all())


def _samples(inputs: Any) -> int:
    return len(_tensors(inputs)[0])


def _form(inputs: Any) -> tuple[Any, ...]:
    leaves, spec = pytree.tree_flatten(inputs)
    kinds = tuple((tuple(x.shape[1:]), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
    return str(spec), kinds


def _divisible(inputs: Any) -> bool:
    """Return True if every tensor has the samples on dim 0; a mask (T, T) beside a batch has not."""
    tensors = _tensors(inputs)
    return all(t.dim() > 0 and len(t) == len(tensors[0]) for t in tensors)


def _regrouped(given: list[Any], most: int) -> list[Any]:
    if len({_form(inputs) for inputs in given}) > 1 or not all(_divisible(inputs) for inputs in given):
        return given
    columns = [pytree.tree_leaves(inputs) for inputs in given]
    spec = pytree.tree_flatten(given[0])[1]
    total = min(most, sum(_samples(inputs) for inputs in given))
    size = min(LARGEST, max(1, total // 8))
    joined = [
        torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*columns, strict=True)
    ]
    pieces = []
    for start in range(0, total, size):
        part = [x[start : min(start + size, total)] if isinstance(x, Tensor) else x for x in joined]
        pieces.append(pytree.tree_unflatten(part, spec))
    return pieces


def joined(sample_groups: Sequence[SampleGroup]) -> list[SampleGroup]:
    """Join the sample groups of one form; groups that cannot be joined stay as they are."""
    forms: dict[Any, list[SampleGroup]] = {}
    for number, group in enumerate(sample_groups):
        forms.setdefault(_form(group.inputs) if _divisible(group.inputs) else number, []).append(group)
    joined_groups = []
    for alike in forms.values():
        columns = [pytree.tree_leaves(group.inputs) for group in alike]
        spec = pytree.tree_flatten(alike[0].inputs)[1]
        whole = [torch.cat(c) if isinstance(c[0], Tensor) and len(c) > 1 else c[0] for c in zip(*columns, strict=True)]
        count = sum(group.count for group in alike)
        joined_groups.append(SampleGroup(pytree.tree_unflatten(whole, spec), count, alike[0].role))
    return joined_groups


def _roles(count: int) -> list[Role]:
    """Return the role of each group: one in eight is held, one in four checks.

    With few groups at least one has each role, held first.
    """
    roles: list[Role] = ["held" if i % 8 == 7 else "check" if i % 4 == 1 else "fit" for i in range(count)]
    if count > 1 and "held" not in roles:
        roles[-1] = "held"
    if count == 2:
        roles[0] = "fit"
    return roles


def samples_that_fit(coupling: Coupling, memory: int | None = None) -> int:
    """Return how many samples a layer-wise run can hold within a limit of memory, see `prunus.repairs.room`.

    Every sample group keeps the values that later nodes still read. The dense program's peak memory of activations is
    counted twice, for the dense and the small program.
    """
    graph = coupling.graph
    batch = next((graph.node(n).shape[0] for n in graph.inputs if graph.node(n).shape), 1)
    tensors = sum(math.prod(info.shape) * info.dtype.itemsize for info in graph.tensors.values())
    one_sample = 2 * max(memory_model(coupling).price() - tensors, 1) / max(batch, 1)
    return max(1, int(room_for_values(memory) / one_sample))
