"""The two networks of a call table side by side: the masked dense one and the cut one, in one float type."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.foundation.as_found import random_state_kept
from prunus.outcome.calls.comparing import Distance, Masks, distance
from prunus.outcome.calls.record import DIFFERS, FAILS, NONE, OK, Row
from prunus.surgery.proving.bisect_difference import one_line
from prunus.surgery.proving.masked_twin import MaskedTwin
from prunus.surgery.proving.precision import computing_in
from prunus.surgery.proving.proof_run import Trial, widened
from prunus.surgery.proving.random_ops import seeded

EXACT, SINGLE, HALF = 1e-5, 1e-3, 2e-2
"""The tolerated errors in float64, in float32 and in bfloat16."""

_LINE = 200

Run = Callable[[nn.Module], Any]


class NotTaken(Exception):
    """The dense network does not take a call, or the call does not apply to it; the message says why."""


class Refused(NotTaken):
    """The dense network fails on a call."""


@dataclass(slots=True)
class Pair:
    """The masked dense network and the cut network with the same noisy tensors.

    Attributes:
        twin: the masked dense network.
        small: the cut one.
        whole: makes the dense network with the noisy tensors and without masks, which shows whether a call is taken.
        it: the trial whose tensors the three networks hold.
        args, kwargs: the example call.
        masks: size of a dim → the masks by which such dims are cut.
    """

    twin: MaskedTwin
    small: nn.Module
    whole: Callable[[], nn.Module]
    it: Trial
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    masks: Masks
    _whole: list[nn.Module] = field(default_factory=list)

    @property
    def tolerance(self) -> float:
        """The tolerated error in the pair's float type."""
        return EXACT if self.it.dtype is torch.float64 else SINGLE

    def dense(self) -> nn.Module:
        """Return the dense network with the noisy tensors; it is made at the first call."""
        if not self._whole:
            self._whole.append(self.whole())
        return self._whole[0]

    def example(self) -> tuple[list[Any], Any]:
        """Return leaves and structure of the example call."""
        return pytree.tree_flatten((self.args, self.kwargs))

    def row(
        self,
        name: str,
        run: Run,
        *,
        cut: Run | None = None,
        one_number: bool | None = None,
        tolerance: float | None = None,
        reason: str = "",
    ) -> Row:
        """Make a call of a copy of each network, and compare.

        Args:
            name: the name of the row.
            run: the call of the masked dense network, and of the cut one.
            cut: another call for the cut one.
            one_number: random ops draw one number each, so that shapes do not matter; by default if the program
                draws.
            tolerance: the tolerated error; by default that of the float type.
            reason: the text of the row if it is ok.
        """
        allowed = self.tolerance if tolerance is None else tolerance
        one = self.it.random if one_number is None else one_number
        expected = self.expected(run, one_number=one)
        missed = self.twin.missed
        try:
            model = copy.deepcopy(self.small)
            with self.computing(one):
                got = (cut or run)(model)
        except Exception as error:
            return Row(name, FAILS, None, allowed, in_short(error))
        if missed:
            return Row(name, NONE, None, None, f"not comparable: {missed}")
        return judged(name, distance(expected, got, self.masks, self.it), allowed, reason)

    def expected(self, run: Run, *, one_number: bool) -> Any:
        """Return the results of the masked dense network for a call.

        Raises:
            NotTaken: it fails; the message says whether the dense one fails too.
        """
        try:
            with self.twin.running(copy.deepcopy(self.twin.model)) as model, self.computing(one_number):
                return run(model)
        except NotTaken:
            raise
        except Exception as error:
            self._refuse_what_dense_refuses(run, one_number)
            raise NotTaken(f"not comparable: the masked dense model fails with {in_short(error)}") from error

    def _refuse_what_dense_refuses(self, run: Run, one_number: bool) -> None:
        try:
            with self.computing(one_number):
                run(copy.deepcopy(self.dense()))
        except Exception as error:
            raise Refused(f"the dense model does not take it: {in_short(error)}") from error

    def takes(self, run: Run) -> None:
        """Refuse a call that the dense network does not take.

        Raises:
            Refused: the dense network fails.
        """
        self._refuse_what_dense_refuses(run, self.it.random)

    @contextlib.contextmanager
    def computing(self, one_number: bool | None = None) -> Iterator[None]:
        """Run a block in the pair's float type, without gradients, from the seed."""
        wide = computing_in(self.it.dtype) if self.it.dtype is torch.float64 else contextlib.nullcontext()
        one = self.it.random if one_number is None else one_number
        with torch.no_grad(), random_state_kept(), seeded(self.it.seed, one_number=one), wide:
            yield

    def wide(self, value: Any) -> Any:
        """Return arguments in the pair's float type, on its device."""
        return pytree.tree_map_only(
            torch.Tensor, lambda t: widened(t.detach(), self.it.dtype, self.it.device if t.dim() else t.device), value
        )


def in_short(error: BaseException) -> str:
    """Return the type and the beginning of the message of an error."""
    text = one_line(error)
    return text if len(text) <= _LINE else f"{text[: _LINE - 1]}…"


def judged(name: str, found: Distance, allowed: float, reason: str = "") -> Row:
    """Return the row of two results with this difference."""
    if found.error <= allowed:
        return Row(name, OK, found.error, allowed, "; ".join(x for x in (reason, found.note) if x))
    where = found.where or "the result"
    return Row(name, DIFFERS, found.error, allowed, where)


def call_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
    """Return a call with these arguments; every run gets its own copies."""

    def run(model: nn.Module) -> Any:
        own_args, own_kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
        return model(*own_args, **own_kwargs)

    return run
