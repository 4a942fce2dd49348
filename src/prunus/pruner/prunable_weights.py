"""The weights of a network that may be masked."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from torch import nn
from torch.optim import Optimizer

from prunus.errors import ModelError, SelectorError, UsageError, nearest
from prunus.masks import prunable_weights


def weights_of(model: nn.Module, ignore: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the prunable parameters by name, without those that ``ignore`` matches by their own or a module's name.

    Raises:
        SelectorError: a pattern matches no parameter and no module.
        ModelError: nothing is left to prune, or gradients are sparse.
    """
    named = dict(model.named_parameters())
    paths = [*named, *(path for path, _ in model.named_modules() if path)]
    for pattern in ignore:
        if not fnmatch.filter(paths, pattern):
            raise SelectorError(f"ignore pattern {pattern!r} matches no module or parameter.{nearest(pattern, paths)}")
    chosen = {name: named[name] for name in prunable_weights(model) if not _ignored(name, ignore)}
    if not chosen:
        raise ModelError(
            f"{type(model).__name__} has no weight that may be pruned: none of two dims or more requires a gradient, "
            "or ignore names them all."
        )
    for path, module in model.named_modules():
        if getattr(module, "sparse", False) is True and any(name.startswith(f"{path}.") for name in chosen):
            raise ModelError(
                f"module {path!r} ({type(module).__name__}) has sparse gradients, which cannot be masked; build it "
                "with sparse=False, or name it in ignore."
            )
    return chosen


def _ignored(name: str, patterns: Sequence[str]) -> bool:
    parts = name.split(".")
    above = [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns for path in above)


def check_trained(optimizer: Optimizer, weights: Mapping[str, nn.Parameter], kind: str) -> None:
    """Refuse an optimizer that trains none of some weights; ``kind`` is the class of the network.

    Raises:
        UsageError: it holds none of them.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(w) in held for w in weights.values()):
        raise UsageError(
            f"The {type(optimizer).__name__} holds none of the {len(weights)} prunable weights of this {kind}; give "
            "the optimizer that trains it."
        )
