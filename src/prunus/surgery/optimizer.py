"""Carry a running optimizer and its schedule over to the cut model: momentum and averages follow the weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from prunus.errors import UsageError
from prunus.graph.capture import unwrap
from prunus.graph.recorder import Recorder, named_tensors
from prunus.plans import Plan
from prunus.surgery.slice_like import kept_indices, masked, picked

_PER_GROUP = ("base_lrs", "_last_lr", "lr_lambdas", "max_lrs", "min_lrs", "base_momentums", "max_momentums")


@dataclass(frozen=True, slots=True)
class _Heir:
    """The cut parameter that replaces one of the optimizer's (None if it was removed), and its name in the plan."""

    name: str
    new: torch.Tensor | None


def carry_optimizer(optimizer: Optimizer, model: nn.Module, small: nn.Module, plan: Plan) -> Optimizer:
    """Return an optimizer of the same class for the cut model that continues from the state of the given one.

    state′ = (mask ⊙ state)[kept indices] for every state tensor of the parameter's shape; factored states (Adafactor's
    rows and columns) are cut along the dims that they have; step counts are copied. Groups keep their options and the
    order of their parameters; removed parameters leave their group, and empty groups are dropped. Parameters of other
    modules (a learnt loss) stay, with their state. Hooks registered on the optimizer are not carried over.

    Args:
        optimizer: an optimizer of the parameters of ``model``; untouched.
        model: the original.
        small: the cut model.
        plan: the plan of the cut.

    Raises:
        UsageError: the optimizer holds no parameter of the model, cannot be built from its own defaults, or keeps
            state that does not follow the shape of its parameter (the history of LBFGS).
        PlanError: model, plan and cut model do not belong together.

    Example:
        ``optimizer = carry_optimizer(optimizer, model, result.model, result.plan)``
    """
    heirs = _heirs(optimizer, model, small)
    kept = list(_surviving(optimizer, heirs))
    carried = _built(optimizer, [_options(group, pairs) for _, group, pairs in kept])
    for _, _, pairs in kept:
        for _, old, heir in pairs:
            if heir.new is None or old not in optimizer.state:
                continue
            cut = _StateCut(plan, heir.name, old, heir.new, type(optimizer).__name__)
            carried.state[heir.new] = {k: cut(k, v) for k, v in optimizer.state[old].items()}
    return carried


def carry_scheduler(scheduler: LRScheduler, carried: Optimizer, model: nn.Module, small: nn.Module) -> LRScheduler:
    """Return a copy of a learning-rate schedule that continues on the carried optimizer.

    Args:
        scheduler: the schedule of the optimizer that was carried; untouched. Nested schedules are copied too.
        carried: the optimizer that `carry_optimizer` returned.
        model, small: the arguments of `carry_optimizer`.

    Raises:
        UsageError: the schedule and the carried optimizer do not belong together.
    """
    old = scheduler.optimizer
    kept = [index for index, _, _ in _surviving(old, _heirs(old, model, small))]
    if type(old) is not type(carried) or len(kept) != len(carried.param_groups):
        raise UsageError(
            f"The {type(scheduler).__name__} drives a {type(old).__name__} of which {len(kept)} groups remain; the "
            f"carried {type(carried).__name__} has {len(carried.param_groups)}. Give the one made by carry_optimizer."
        )
    twin = copy.deepcopy(scheduler, {id(old): carried})
    if len(kept) < len(old.param_groups):
        _drop_groups_(twin, kept)
    # torch warns on the first step of an optimizer without a scheduler; this one changes nothing.
    ConstantLR(carried, factor=1.0, total_iters=0)
    return twin


def _drop_groups_(scheduler: Any, kept: list[int]) -> None:
    for name in _PER_GROUP:
        values = getattr(scheduler, name, None)
        if isinstance(values, list):
            setattr(scheduler, name, [values[i] for i in kept])
    for inner in getattr(scheduler, "_schedulers", ()):
        _drop_groups_(inner, kept)


def _heirs(optimizer: Optimizer, model: nn.Module, small: nn.Module) -> dict[int, _Heir]:
    """Map the ``id`` of every parameter of the model to its heir."""
    model = unwrap(model)
    named, new, aliases = named_tensors(model), dict(unwrap(small).named_parameters()), Recorder(model).aliases
    heirs: dict[int, _Heir] = {}
    for name, tensor in named.items():
        # torch.nn.utils.prune renames a parameter to …_orig beside …_mask; shrink restores the name.
        plain = name.removesuffix("_orig")
        plain = plain if f"{plain}_mask" in named else name
        heir = _Heir(aliases.get(plain, plain), new.get(plain))
        if id(tensor) not in heirs or heirs[id(tensor)].new is None:
            heirs[id(tensor)] = heir
    if not any(id(p) in heirs for group in optimizer.param_groups for p in group["params"]):
        raise UsageError(
            f"The {type(optimizer).__name__} holds no parameter of this {type(model).__name__}; "
            "give the optimizer that trains the model that was pruned."
        )
    return heirs


def _surviving(
    optimizer: Optimizer, heirs: Mapping[int, _Heir]
) -> Iterator[tuple[int, dict[str, Any], list[tuple[int, torch.Tensor, _Heir]]]]:
    """Yield (index, group, [(place in the group, old parameter, heir)]) of the groups that keep a parameter."""
    taken: set[int] = set()
    for index, group in enumerate(optimizer.param_groups):
        pairs = []
        for place, old in enumerate(group["params"]):
            heir = heirs.get(id(old), _Heir("", old))
            if heir.new is None or id(heir.new) in taken:  # two parameters that shared memory are one now
                continue
            taken.add(id(heir.new))
            pairs.append((place, old, heir))
        if pairs:
            yield index, group, pairs


def _options(group: Mapping[str, Any], pairs: list[tuple[int, torch.Tensor, _Heir]]) -> dict[str, Any]:
    names = group.get("param_names")
    params = [heir.new if names is None else (names[place], heir.new) for place, _, heir in pairs]
    rest = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
    return {"params": params, **rest}


def _built(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    defaults = copy.deepcopy(optimizer.defaults)
    try:
        carried = kind(groups, **{k: v for k, v in defaults.items() if k in accepted})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"A {kind.__name__} cannot be built from its groups and defaults: {error}. "
            "Make a new one over the parameters of the cut model."
        ) from error
    carried.defaults = defaults
    carried.state.update({k: copy.deepcopy(v) for k, v in optimizer.state.items() if not isinstance(k, torch.Tensor)})
    return carried


class _StateCut:
    """A function that cuts the state of one parameter as the parameter was cut."""

    def __init__(self, plan: Plan, name: str, old: torch.Tensor, new: torch.Tensor, kind: str) -> None:
        self.plan, self.name, self.old, self.new, self.kind = plan, name, old, new, kind
        self.keep = kept_indices(plan, name, old, new)

    def __call__(self, key: str, value: Any) -> Any:
        """Return one entry of the state for the cut parameter."""
        if not isinstance(value, torch.Tensor):
            if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
                raise self._refusal(key, f"a {type(value).__name__} of tensors")
            return copy.deepcopy(value)
        if value.shape != self.old.shape and value.numel() == 1:
            return value.detach().clone()
        if not _follows(value.shape, self.old.shape):
            raise self._refusal(key, f"a tensor of shape {tuple(value.shape)}")
        whole = value.detach()
        if value.shape == self.old.shape:
            whole = masked(whole, self.plan, self.name)
        for dim, index in self.keep.items():
            if value.shape[dim] == self.old.shape[dim]:
                whole = picked(whole, dim, index)
        return whole.clone().to(self.new.device if value.device == self.old.device else value.device)

    def _refusal(self, key: str, what: str) -> UsageError:
        return UsageError(
            f"{self.kind} keeps as state {key!r} of {self.name!r} {what}, which does not follow its shape "
            f"{tuple(self.old.shape)} and cannot be cut. Make a new {self.kind} over the parameters of the cut model."
        )


def _follows(state: torch.Size, parameter: torch.Size) -> bool:
    """Return True if a state has a parameter's dims, each whole or reduced to size 1."""
    return len(state) == len(parameter) and all(s in (1, n) for s, n in zip(state, parameter, strict=True))
