"""Make each random op draw one number for all positions.

A cut changes shapes, so that one seed would give kept positions other numbers in the cut model than in the original.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.foundation.as_found import random_state_kept
from prunus.graph.interpreter import resolve
from prunus.graph.ir import INPUT, TENSOR, Graph

_SIZED = ("rand", "randn", "randint")
_LIKE = ("rand_like", "randn_like", "randint_like")
_FILLS = ("normal_", "uniform_", "exponential_", "random_", "cauchy_", "log_normal_", "geometric_")
_OFF = {"train": False, "training": False, "p": 0.0, "dropout": 0.0, "dropout_p": 0.0}


def draws(graph: Graph) -> bool:
    """Return True if a program draws random numbers; dropout that is switched off draws none."""
    return any(
        node.op not in (INPUT, TENSOR)
        and torch.Tag.nondeterministic_seeded in resolve(node.op).tags
        and not any(k in node.args and node.args[k] == v for k, v in _OFF.items())
        for node in graph.nodes
    )


class _OneNumber(TorchDispatchMode):
    """A mode in which every random op returns one number for all positions, the same in every call."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed = seed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        torch.manual_seed(self.seed)
        return _drawn(func, args, kwargs)


def _drawn(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, overload = str(func).split(".")[1:]
    if name in _SIZED:
        at = len(args) - 1  # the size is the last positional argument: rand(size), randint(high, size)
        return func(*args[:at], [], **kwargs).expand(args[at]).clone()
    if name in _LIKE:
        return func(args[0].new_empty(()), *args[1:], **kwargs).expand(args[0].shape).clone()
    if name in _FILLS or (name, overload) == ("bernoulli_", "float"):
        return args[0].copy_(func(args[0].new_empty(()), *args[1:], **kwargs))
    if name in ("bernoulli", "bernoulli_") and overload in ("default", "Tensor", "out"):
        chances = args[-1] if name == "bernoulli_" else args[0]
        ones = (chances > torch.rand((), dtype=chances.dtype, device=chances.device)).to(args[0].dtype)
        return args[0].copy_(ones) if name == "bernoulli_" else ones
    return func(*args, **kwargs)


@contextlib.contextmanager
def seeded(seed: int, *, one_number: bool) -> Iterator[None]:
    """Run a block from a fixed random state, then restore the state.

    Args:
        seed: seed of the state.
        one_number: random ops return one number for all positions.
    """
    with random_state_kept(), _OneNumber(seed) if one_number else contextlib.nullcontext():
        torch.manual_seed(seed)
        yield
