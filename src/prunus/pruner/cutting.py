"""Cut a network in the middle of its training, in place, so that the loop's own objects stay valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer

from prunus.errors import OptionError, UsageError
from prunus.exporters import update_config_
from prunus.foundation.interrupted import uninterrupted
from prunus.outcome import Cut, cut_proved
from prunus.plans import Plan
from prunus.pruner.options import PrunerOptions
from prunus.pruner.structure import Structure
from prunus.surgery.averaged_copy import carry_like
from prunus.surgery.optimizer import carry_optimizer


def transplant_(
    model: nn.Module,
    plan: Plan,
    structure: Structure,
    optimizer: Optimizer | None,
    averages: Sequence[nn.Module] = (),
    *,
    prove: bool = True,
) -> Cut:
    """Cut a network with its optimizer and its averages, without replacing an object that the loop holds.

    The network takes class and content of the cut one, the optimizer the cut groups and state; a learning-rate
    schedule and a gradient scaler refer to the optimizer by identity and stay valid. All of it is built and verified
    before the first object changes.

    Args:
        model: changed in place.
        plan: the plan.
        structure: the analysis of ``model``.
        optimizer: changed in place; groups that lose every parameter stay, empty, so that schedules keep their places.
        averages: averages of the network (EMA, SWA), changed in place.
        prove: compare cut and masked network before anything changes.

    Returns:
        The network, how it was cut, and the proof.

    Raises:
        UsageError: the optimizer's state cannot follow, or an average is no copy of the network.
        ModelError: ``config_ties``, and the forward reads a number of the config that it needs as it was.
        VerifyError: the cut network differs.
    """
    cut = cut_proved(model, structure.coupling, plan, structure.example_inputs, prove=prove)
    small = cut.model
    if structure.analysis.config_ties:
        update_config_(cut, structure.example_inputs)
    carried = carry_optimizer(optimizer, model, small, plan) if optimizer is not None else None
    copies = [carry_like(average, small, plan, model) for average in averages]
    with uninterrupted():  # network, optimizer and averages change together, or not at all
        if optimizer is not None and carried is not None:
            _take_over_(optimizer, carried, model, small)
        for average, copy in zip(averages, copies, strict=True):
            become_(average, copy)
        become_(model, small)
    return replace(cut, model=model)


def check_cut(options: PrunerOptions, structural: bool, parallel: bool) -> None:
    """Refuse a final cut where only weights are masked, or inside DistributedDataParallel.

    Raises:
        OptionError: the method masks weights.
        UsageError: the network is wrapped.
    """
    if options.config_ties and not structural:
        raise OptionError(
            f"config_ties is on, but method {options.method!r} masks weights only, and a config says nothing of them; "
            "leave it out, or choose a method for units."
        )
    if options.cut == "never":
        return
    if not structural:
        raise OptionError(
            f"cut is {options.cut!r}, but method {options.method!r} masks weights only; allowed: 'never'. Choose a "
            "method for units, or shrink the network afterwards."
        )
    check_alone(parallel)


def check_alone(parallel: bool) -> None:
    """Refuse a cut inside DistributedDataParallel.

    Raises:
        UsageError: the network is wrapped.
    """
    if parallel:
        raise UsageError(
            "a network inside DistributedDataParallel cannot be cut while it trains: its buckets hold the old weights. "
            "Use cut='never'; after train_end, cut the bare network by pruner.plan() and wrap it anew."
        )


def become_(module: nn.Module, other: nn.Module) -> None:
    """Give a module the class and the content of another one, which must not be used afterwards."""
    module.__class__ = other.__class__
    module.__dict__ = other.__dict__


def _take_over_(optimizer: Optimizer, carried: Optimizer, model: nn.Module, small: nn.Module) -> None:
    """Move groups and state of the new optimizer into the running one."""
    home = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for name, parameter in small.named_parameters(remove_duplicate=False):
        old = _named(model, name)
        if old is not None and id(old) in home:
            home.setdefault(id(parameter), home[id(old)])
    left = {home[id(group["params"][0])]: group for group in carried.param_groups}
    for i, group in enumerate(optimizer.param_groups):
        group["params"] = left[i]["params"] if i in left else []
        if "param_names" in group:
            group["param_names"] = left[i]["param_names"] if i in left else []
    optimizer.state = carried.state


def _named(model: nn.Module, name: str) -> torch.Tensor | None:
    owner, _, leaf = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(owner), leaf, None)
    except AttributeError:
        return None
    return found if isinstance(found, torch.Tensor) else None
