"""Losses by name or as callables: (output, targets) → one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from prunus.data.batches import IGNORED, logits_of
from prunus.errors import DataError, OptionError, shown
from prunus.foundation.registry import Registry, title_of

Losses: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Loss: TypeAlias = str | Callable[[Any, Tensor], Tensor]

LOSSES: Registry[Losses] = Registry("loss", "prunus.losses")

LOSSES.register("cross_entropy")(functional.cross_entropy)


@LOSSES.register("sparse_cross_entropy")
def sparse_cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits whose last axis is the classes, −100 ignored.

    L = −mean log softmax(z)[y], over all positions with y ≠ −100.
    Shapes: output (…, C), targets (…), integers.
    """
    if targets.is_floating_point() or targets.shape != output.shape[:-1]:
        raise ValueError(f"targets must be integers of shape {tuple(output.shape[:-1])}, one a position")
    return functional.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1), ignore_index=IGNORED)


@LOSSES.register("next_token")
def next_token(output: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of a language model whose targets are its own tokens: position t predicts token t + 1.

    Shapes: output (B, T, C), targets (B, T), integers; −100 is ignored.
    """
    if output.ndim < 3 or output.shape[1] < 2:
        raise ValueError("a language model answers (B, T, C) with at least 2 positions")
    return sparse_cross_entropy(output[:, :-1], targets[:, 1:])


@LOSSES.register("mse")
def _mse(output: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(output, targets.to(output.dtype).reshape(output.shape))


def loss_function(loss: Loss) -> Callable[[Any, Tensor], Tensor]:
    """Return (model's output, targets) → loss.

    A loss of LOSSES gets the logits in the output; a callable gets the output as the model returns it.

    Raises:
        OptionError: an unknown name.
        DataError: on a call, targets that do not fit the loss, or a result that is not one number.
    """
    return _CheckedLoss(loss)


class _CheckedLoss:
    """A loss whose errors name it; pickling stores its name or the callable, and not what it was resolved to."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._named = LOSSES.get(loss) if isinstance(loss, str) else None
        self.__name__ = name_of(loss)

    def __call__(self, output: Any, targets: Tensor) -> Tensor:
        value = self._measured(output, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise DataError(f"loss {self.__name__!r} gives {got}; allowed: one number, averaged over the batch.")
        return value.reshape(())

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Loss]]:
        return loss_function, (self._loss,)

    def _measured(self, output: Any, targets: Tensor) -> Any:
        try:
            if self._named is not None:
                return self._named(logits_of(output), targets)
            return self._loss(output, targets)  # type: ignore[operator]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shape = tuple(logits_of(output).shape)
            raise DataError(
                f"loss {self.__name__!r} refuses output {shape} with targets {_words(targets)}: "
                f"{(str(error) or type(error).__name__).splitlines()[0].rstrip('.')}. Check the labels, or choose "
                "another loss."
            ) from error


def relative_square_error(value: Tensor, goal: Tensor) -> Tensor:
    """Return ‖value − goal‖² / ‖goal‖², the relative error of one network's values to another's."""
    return (value - goal).square().mean() / goal.square().mean().clamp_min(1e-12)


def check_loss(loss: Loss) -> None:
    """Raise OptionError unless ``loss`` is a known name or can be called."""
    if isinstance(loss, str):
        LOSSES.get(loss)
    elif not callable(loss):
        raise OptionError(
            f"loss is {loss!r}; allowed: one of {', '.join(LOSSES.names())}, or (output, targets) → loss."
        )


def name_of(loss: Loss) -> str:
    """Return the name of a loss for messages and records."""
    return title_of(loss)


def _words(targets: Any) -> str:
    """Return what a message says of targets."""
    return f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else shown(targets)
