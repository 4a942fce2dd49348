"""The state of a training: weights, optimizer, masks, data order, random states, and the identity of the training."""

from __future__ import annotations

import contextlib
import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from prunus.data.batches import Batch, DataSource, check_count, cuda_devices
from prunus.errors import OptionError, shown
from prunus.foundation.clock import TimeLimit
from prunus.foundation.registry import title_of
from prunus.graph.recorder import named_tensors
from prunus.pruner.checkpoint import read_state, write_state
from prunus.pruner.distributed import gather, rank, world_size
from prunus.pruner.pruner import Pruner
from prunus.training.objective import Objective
from prunus.training.options import TrainingOptions
from prunus.training.order import Order


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The file of a stored training, and the steps between two writes.

    A training that finds a checkpoint there resumes it; one of another recipe is refused.
    """

    path: Path | str
    every: int = 100

    def __post_init__(self) -> None:
        check_count("every", self.every)
        if not isinstance(self.path, Path | str) or Path(self.path).is_dir():
            raise OptionError(
                f"the path of checkpoints is {str(self.path)!r}; allowed: one file, such as 'training.safetensors'."
            )


@dataclass(slots=True)
class Run:
    """A running training: everything on which its next step depends.

    Attributes:
        began: the random states when the present epoch began, from which a reader of the data may draw.
        limit: the time of a training whose length is in minutes.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    order: Order
    pruner: Pruner | None
    losses: list[float]
    began: dict[str, Any] = field(default_factory=dict)
    limit: TimeLimit | None = None

    def epoch_begins(self) -> None:
        """Note the random states; the order of the data calls it."""
        self.began = random_states(self.model)

    def store(self, place: Checkpoints, identity: Mapping[str, Any]) -> None:
        """Write a checkpoint; process 0 writes it for all.

        Raises:
            OptionError: the file cannot be written; the previous one is then intact.
        """
        if self.pruner is not None:
            self.pruner.settle_()
        states, began = gather(random_states(self.model)), gather(self.began)
        if rank() == 0:
            write_state(
                place.path,
                {
                    "identity": identity,
                    "model": named_tensors(self.model),
                    "objective": list(self.objective.parameters()),
                    "optimizer": self.optimizer.state_dict(),
                    "order": [self.order.epoch, self.order.taken],
                    "pruner": self.pruner.state_dict() if self.pruner else None,
                    "losses": self.losses,
                    "random": states,
                    "began": began,
                    **({} if self.limit is None else {"seconds": self.limit.spent}),
                },
            )

    def batches(self, state: Mapping[str, Any] | None) -> Iterator[Batch]:
        """Return the batches to come; a resumed epoch is read again from its beginning, with the same random states."""
        behind, self.order.taken = self.order.taken, 0
        batches = iter(self.order)
        if state is not None:
            set_random_states(state["began"][rank()])
            for _ in range(behind):
                next(batches)
            set_random_states(state["random"][rank()])
        return batches

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint's content, without the random states."""
        self._check_form(state)
        for name, tensor in named_tensors(self.model).items():
            tensor.copy_(state["model"][name])
        for learned, value in zip(self.objective.parameters(), state["objective"], strict=True):
            learned.copy_(value)
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        for parameter, entries in self.optimizer.state.items():
            for key, value in entries.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    # The memory layout affects how a kernel rounds.
                    entries[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        self.order.epoch, self.order.taken = state["order"]
        self.losses = list(state["losses"])
        if self.limit is not None:
            self.limit.resume(float(state["seconds"]))
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])

    def _check_form(self, state: Mapping[str, Any]) -> None:
        """Refuse what this training would not have stored, before anything of it is taken over.

        Raises:
            ValueError: tensors of other shapes, numbers out of range, or settings of another kind.
        """
        own = named_tensors(self.model)
        if {n: (t.shape, t.dtype) for n, t in state["model"].items()} != {
            n: (t.shape, t.dtype) for n, t in own.items()
        }:
            raise ValueError("it holds other weights than the model")
        walk, taken = state["order"]
        if any(type(number) is not int or not 0 <= number < 2**31 for number in (walk, taken)):
            raise ValueError("the order of its data is no pair of counts")
        if not all(type(loss) is float and math.isfinite(loss) for loss in state["losses"]):
            raise ValueError("its losses are no finite numbers")
        if taken > len(state["losses"]):
            raise ValueError("it took more batches than steps")
        _check_optimizer(self.optimizer, state["optimizer"])


def _check_optimizer(optimizer: Optimizer, stored: Mapping[str, Any]) -> None:
    own = optimizer.state_dict()["param_groups"]
    if [_kinds(group) for group in stored["param_groups"]] != [_kinds(group) for group in own]:
        raise ValueError("its optimizer has other settings")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entries in stored["state"].items():
        shape = parameters[number].shape
        for name, value in entries.items():
            if isinstance(value, torch.Tensor) and not (value.is_floating_point() and value.shape in (shape, ())):
                raise ValueError(f"{name!r} of its optimizer has another shape than the weight")
            if not isinstance(value, torch.Tensor | int | float | None):
                raise ValueError(f"{name!r} of its optimizer is no number")


def _kinds(group: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {name: float if type(value) in (int, float) else type(value) for name, value in group.items()}
    return {**kinds, "params": list(group["params"])}


@contextlib.contextmanager
def damage_named(place: Checkpoints | None, model: nn.Module) -> Iterator[None]:
    """Turn errors of a checkpoint that is not what a training stores into one line; the model's tensors come back.

    Raises:
        OptionError: the block failed over what stands in the file.
    """
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    try:
        yield
    except _DAMAGE as error:
        for name, tensor in named_tensors(model).items():
            tensor.data.copy_(before[name])
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "?"
        raise OptionError(
            f"the checkpoint {str(place.path) if place else ''!r} is damaged: {type(error).__name__} {reason}; delete "
            "it to begin anew, or give one that was written whole."
        ) from error


_DAMAGE = (ArithmeticError, AttributeError, AssertionError, LookupError, TypeError, ValueError, RuntimeError)


def found_state(place: Checkpoints, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint of this training, None where there is none yet.

    Raises:
        OptionError: it belongs to a training with another recipe, model, data or number of processes, or is damaged.
    """
    if not Path(place.path).is_file():
        return None
    state = read_state(place.path)
    stored_identity = state.get("identity") if isinstance(state, dict) else None
    if not isinstance(stored_identity, dict):
        raise OptionError(f"the checkpoint {str(place.path)!r} does not say whose it is; delete it to begin anew.")
    for name, own in identity.items():
        stored = stored_identity.get(name)
        if not _equal(stored, own):
            raise OptionError(
                f"the checkpoint {str(place.path)!r} belongs to another training: {name} is {shown(stored)} there and "
                f"{own!r} here. Go on with the same recipe, or give another path."
            )
    return state


def identity_of(
    model: nn.Module,
    data: DataSource,
    options: TrainingOptions,
    pruner: Pruner | None,
    objective: Objective,
    seed: int,
) -> dict[str, Any]:
    """Return everything that has to be equal when a training is resumed, as JSON types."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named_tensors(model).items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype};".encode())
    found = {f"training {f.name}": _plain(getattr(options, f.name)) for f in fields(options)}
    pruning = pruner.options.describe() if pruner else {}
    found |= {f"pruning {name}": value for name, value in pruning.items()}
    return {
        **found,
        "pruned": pruner is not None,
        "teacher": pruner.teacher.describe() if pruner and pruner.teacher else None,
        "model": digest.hexdigest()[:16],
        "samples": len(data),
        "objective": type(objective).__name__,
        "seed": seed,
        "processes": world_size(),
    }


def random_states(model: nn.Module) -> dict[str, Any]:
    """Return the random states of torch, Python and NumPy in this process."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": {str(index): torch.cuda.get_rng_state(index) for index in cuda_devices(model)},
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], *rest),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Set the random states that `random_states` returned."""
    torch.set_rng_state(states["torch"])
    for index, state in states["cuda"].items():
        torch.cuda.set_rng_state(state, int(index))
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))


def _equal(stored: Any, own: Any) -> bool:
    try:
        return bool(stored == own)
    except (RuntimeError, ValueError):  # a tensor stands where a number should
        return False


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool) else title_of(value)
