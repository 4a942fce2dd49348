"""Unlabelled calibration batches, checked, cut into lanes, and each lane given its part in the repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from prunus.data.batches import moved
from prunus.data.calibration import batches_of
from prunus.data.programs import named
from prunus.errors import DataError
from prunus.graph.call_form import CallForm
from prunus.graph.capture import split_inputs

Role = Literal["fit", "check", "held"]

LARGEST = 64
"""Samples of a lane at most."""
MOST = 1024
"""Samples that are looked at where the data have more."""
LEAST = 4
"""Samples that a repair needs: it fits on some and is judged on others."""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Some samples that go through both programs together.

    ``fit`` lanes are fitted to, ``check`` lanes choose among fits of one layer, ``held`` lanes judge whole repairs.
    """

    inputs: Any
    count: int
    role: Role


def lanes_of(
    data: Any, device: torch.device, *, names: Sequence[str] = (), calls: CallForm | None = None, most: int = MOST
) -> tuple[Lane, ...]:
    """Return the calibration samples as lanes of equal size, in stored order.

    Batches of one form are joined and divided anew, so that results do not depend on the batch size; others stay as
    they are. Targets are not looked at.

    Args:
        data: batches: inputs, (inputs,) or (inputs, targets); or a split with ``batches()``; or one tensor of samples.
        device: where the model lives; batches are moved there.
        names: the model's arguments in the order of its program, see `prunus.data.programs.names_of`; what else a
            mapping holds, labels say, is left out.
        calls: how the model is called; batches take that form.
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
        Lane(moved(inputs, device), _samples(inputs), role) for inputs, role in zip(pieces, roles, strict=True)
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
    """Whether it is what is added to scores of attention: 0 and −∞, nothing else."""
    return bool(((tensor == 0) | (tensor == -torch.inf)).all())


def _samples(inputs: Any) -> int:
    return len(_tensors(inputs)[0])


def _form(inputs: Any) -> tuple[Any, ...]:
    leaves, spec = pytree.tree_flatten(inputs)
    kinds = tuple((tuple(x.shape[1:]), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
    return str(spec), kinds


def _divisible(inputs: Any) -> bool:
    """Whether every tensor has the samples on dim 0; a mask (T, T) beside a batch has not."""
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


def joined(lanes: Sequence[Lane]) -> list[Lane]:
    """Return lanes of one form as one, those that cannot be joined as they are."""
    forms: dict[Any, list[Lane]] = {}
    for number, lane in enumerate(lanes):
        forms.setdefault(_form(lane.inputs) if _divisible(lane.inputs) else number, []).append(lane)
    found = []
    for group in forms.values():
        columns = [pytree.tree_leaves(lane.inputs) for lane in group]
        spec = pytree.tree_flatten(group[0].inputs)[1]
        whole = [torch.cat(c) if isinstance(c[0], Tensor) and len(c) > 1 else c[0] for c in zip(*columns, strict=True)]
        found.append(Lane(pytree.tree_unflatten(whole, spec), sum(lane.count for lane in group), group[0].role))
    return found


def _roles(count: int) -> list[Role]:
    """One lane in eight is held, one in four checks; with few lanes at least one of each, held first."""
    roles: list[Role] = ["held" if i % 8 == 7 else "check" if i % 4 == 1 else "fit" for i in range(count)]
    if count > 1 and "held" not in roles:
        roles[-1] = "held"
    if count == 2:
        roles[0] = "fit"
    return roles
