"""Bridges of a plan in a model: runs of modules are replaced by identities, poolings, scales, or fitted layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from prunus.errors import PlanError, nearest
from prunus.graph.recorder import named_tensors
from prunus.nn import Bypass
from prunus.nn.bridge import First, Pool, Scale
from prunus.substitutes import Bridge
from prunus.surgery.copy_module import copied

_CONVOLUTIONS: Mapping[str, Callable[..., nn.Module]] = {"Conv1d": nn.Conv1d, "Conv2d": nn.Conv2d, "Conv3d": nn.Conv3d}


def bridged(model: nn.Module, bridges: Iterable[Bridge]) -> nn.Module:
    """Return a copy of a model in which the bridges of a plan stand in place of the modules that they replace.

    The forwards stay the user's: the first module of a run becomes the bridge, the others return their argument.

    Raises:
        PlanError: a module that the model does not have, or a bridge whose numbers do not fit its kind.
    """
    made = copied(model)
    modules = dict(made.named_modules(remove_duplicate=False))
    for bridge in bridges:
        for path in (bridge.path, *bridge.skipped):
            if path not in modules or not path:
                raise PlanError(
                    f"The plan bridges {path!r}, which this {type(model).__name__} does not have."
                    f"{nearest(path, modules)}"
                )
        like = next(made.parameters(), torch.zeros(()))
        like = next(modules[bridge.path].parameters(), like)
        _put_(made, bridge.path, built(bridge).to(like.device, like.dtype), modules[bridge.path].training)
        for path in bridge.skipped:
            _put_(made, path, Bypass(), modules[path].training)
    return made


def _put_(model: nn.Module, path: str, module: nn.Module, training: bool) -> None:
    parent, _, leaf = path.rpartition(".")
    model.get_submodule(parent)._modules[leaf] = module.train(training)


def unbridged(bridged_model: nn.Module, model: nn.Module, bridges: Sequence[Bridge]) -> nn.Module:
    """Return a copy of a model with the tensors of its bridged copy; modules that bridges replaced keep their own."""
    gone = tuple(f"{path}." for bridge in bridges for path in (bridge.path, *bridge.skipped))
    values = named_tensors(bridged_model)
    memo: dict[int, object] = {}
    for name, tensor in named_tensors(model).items():
        if name in values and not name.startswith(gone):
            value = values[name].detach().clone().to(tensor.device, tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
    return copied(model, memo)


def built(bridge: Bridge) -> nn.Module:
    """Return the module of a bridge.

    Raises:
        PlanError: an unknown kind, or numbers that do not fit it.
    """
    if bridge.kind not in _KINDS:
        raise PlanError(f"The bridge at {bridge.path!r} is a {bridge.kind!r}; allowed: {', '.join(_KINDS)}.")
    sizes = dict(bridge.sizes)
    results = sizes.pop("results", 0)
    try:
        module = _KINDS[bridge.kind](bridge, sizes)
        with torch.no_grad():
            for name, value in (("weight", bridge.weight), ("bias", bridge.bias)):
                own = getattr(module, name, None)
                if own is not None:
                    own.copy_(torch.from_numpy(value))
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise PlanError(f"The numbers of the bridge at {bridge.path!r} do not fit a {bridge.kind}: {error}.") from error
    if bridge.kind == "Bypass" or not results:
        return module
    return First(module, results)


def _linear(bridge: Bridge, sizes: Mapping[str, int]) -> nn.Module:
    width_out, width_in = bridge.weight.shape
    return nn.Linear(width_in, width_out, bias=len(bridge.bias) > 0, **sizes)


def _convolution(bridge: Bridge, sizes: Mapping[str, int]) -> nn.Module:
    width_out, width_in, *kernel = bridge.weight.shape
    kind = _CONVOLUTIONS[bridge.kind]
    return kind(width_in, width_out, tuple(kernel), bias=len(bridge.bias) > 0, **sizes)


def _bypass(bridge: Bridge, sizes: Mapping[str, int]) -> nn.Module:
    return Bypass(**{**sizes, "results": bridge.sizes.get("results", 0)})


_KINDS: Mapping[str, Callable[[Bridge, Mapping[str, int]], nn.Module]] = {
    "Bypass": _bypass,
    "Scale": lambda bridge, sizes: Scale(len(bridge.weight), **sizes),
    "Pool": lambda bridge, sizes: Pool(**sizes),
    "Linear": _linear,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
}
