"""`shrink`: a network with zeros becomes a smaller network that computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.analysis import analyse
from prunus.analysis.score import check_weights, make_plan
from prunus.budget.tied import in_proportion, unread_axes
from prunus.errors import OutcomeError, VerifyError
from prunus.foundation.as_found import seeded
from prunus.foundation.autograd_mode import in_ordinary_mode
from prunus.foundation.defaults import DEFAULTS
from prunus.graph.call_form import as_called
from prunus.graph.capture import preserved, split_inputs, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.open_outputs import opened_leaves
from prunus.graph.recorder import named_tensors
from prunus.outcome import Outcome, realise
from prunus.plans import Decision
from prunus.surgery.copy_module import copied
from prunus.surgery.dead_units import live_units
from prunus.surgery.proving.precision import computing_in
from prunus.surgery.proving.proof_run import relative_error

TOLERANCE = 1e-6


@in_ordinary_mode
def shrink(
    model: nn.Module,
    example_inputs: Any,
    *,
    forward: str = DEFAULTS.forward,
    config_ties: bool = DEFAULTS.config_ties,
) -> Outcome:
    """Remove the structure that zeros have made dead; the network computes the same and is smaller.

    f_small(x) = f(x) for every x: a unit is removed if the zeros show that no output can depend on it (all weights that
    write it are zero and it stays zero through the following ops, or all that read it are zero). Weights that
    `torch.nn.utils.prune` masks count as zero: a copy of the model is made and its masks are made permanent there, so
    that the result has plain parameters (``weight``, not ``weight_orig``). Other zeros stay zero, and may change again
    in training. One unit of every axis is kept, dead or not.

    Not dead: a unit that has become a constant other than zero. A zero filter before a batch norm still brings the
    norm's shift; set the norm's weight and bias to zero too. Hidden units of LSTM and GRU, and units that a layer norm
    averages over, are kept.

    Args:
        model: any network that can be captured; it is left untouched.
        example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments.
        forward: ``rewrite`` removes every dead unit; ``keep``, as in `prunus.prune`, leaves forwards as they
            are, and keeps dead units on axes that their code fixes.
        config_ties: for a Hugging Face model, remove as many units in every layer as all layers can lose, so that the
            folder that is saved loads without prunus, as in `prunus.prune`.

    Returns:
        As `prune`; besides the proof of the cut, the outputs on the example inputs are equal to those of
        ``model`` to 1e-6 relative, in float64 and eval mode.

    Raises:
        UsageError: NaN weights, bad arguments.
        CaptureError: the model cannot be captured.
        OutcomeError: nothing is dead.
        VerifyError: the result differs; nothing is returned.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = model[2].weight.data[:, 1:3].zero_()
        >>> shrink(model, torch.randn(2, 3)).model[0]
        Linear(in_features=3, out_features=2, bias=True)
    """
    model = unwrap(model)
    check_weights(model)
    plain = _without_masks(model)
    analysis = analyse(plain, example_inputs, forward=forward, config_ties=config_ties)
    live = live_units(analysis.coupling, named_tensors(analysis.model))
    keep = _kept(analysis.coupling, live)
    decisions = [
        Decision(axis, "unit", int((~units).sum()), len(units), "no output depends on it: its weights are zero")
        for axis, units in keep.items()
        if not units.all()
    ]
    if not decisions:
        needed = analysis.own is not None and (analysis.own.frozen or analysis.own.ties)
        more = ", or forward='rewrite', which also frees axes that the code needs." if needed else "."
        raise OutcomeError(
            f"Nothing is dead in {type(model).__name__}: on its {len(live)} removable axes an output may depend on "
            f"each of the {sum(map(len, live.values())):,} units. A unit goes when all weights and biases that write "
            f"it are zero (those of a norm behind it too), or all that read it; to remove more, use prunus.prune{more}"
        )
    settings = {"method": "shrink", **({"config_ties": True} if config_ties else {})}
    plan = make_plan(analysis.coupling, keep, decisions=decisions, settings=settings)
    found = realise(analysis, plan, repair=None)
    _check_same(model, found.model, example_inputs)
    return found


def _kept(coupling: Coupling, live: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the units that stay: all live ones, one of every axis that is read, and those that kept forwards need."""
    unread, whole = unread_axes(coupling, [axis for axis, units in live.items() if not units.any()])
    keep = {
        axis: units if axis in unread else np.ones_like(units) if axis in whole else _at_least_one(units)
        for axis, units in live.items()
    }
    return in_proportion(coupling, keep, {}, none_lost=True)


def _at_least_one(units: np.ndarray) -> np.ndarray:
    if units.any():
        return units
    first = np.zeros_like(units)
    first[0] = True
    return first


def _without_masks(model: nn.Module) -> nn.Module:
    """Return a copy in which the masks of `torch.nn.utils.prune` are zeros in plain parameters."""
    from torch.nn.utils import prune

    plain = copied(model)
    for module in plain.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if not isinstance(hook, prune.BasePruningMethod):
                continue
            # A mask belongs to one use of a tied weight; removing it would write the zeros into the other uses.
            name = f"{hook._tensor_name}_orig"
            weight = module.get_parameter(name)
            module.register_parameter(name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    return plain


def _check_same(model: nn.Module, small: nn.Module, example_inputs: Any) -> None:
    expected, got = _outputs(model, example_inputs), _outputs(small, example_inputs)
    error = relative_error(got, expected)
    if not error <= TOLERANCE:
        raise VerifyError(
            f"The shrunk {type(model).__name__} differs from the model on the example inputs: relative error "
            f"{error:.2e}, allowed {TOLERANCE:.0e}. Please report this model; nothing was changed."
        )


def _outputs(model: nn.Module, example_inputs: Any) -> list[torch.Tensor]:
    """Return the outputs of a model in eval mode and float64, with random numbers from a fixed seed."""

    def wide(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        return tensor.double() if tensor.is_floating_point() else tensor

    twin = copied(model).to(torch.float64)
    for module in twin.modules():  # a masked weight that is read without a call of its module
        plain = {k: wide(v) for k, v in module.__dict__.items() if isinstance(v, torch.Tensor)}
        module.__dict__.update(plain)
    example_inputs = as_called(model, example_inputs)
    args, kwargs = pytree.tree_map_only(torch.Tensor, wide, split_inputs(example_inputs))
    with preserved(twin), computing_in(torch.float64), torch.no_grad(), seeded(0):
        return [x.double() for x in opened_leaves(twin(*args, **kwargs)) if isinstance(x, torch.Tensor)]
