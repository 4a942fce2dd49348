"""The proof of a cut that keeps the user's forwards: three batch sizes, on inputs as small as the code takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.plans import Plan
from prunus.surgery.bisect_difference import first_divergence, one_line, wrong_tensor
from prunus.surgery.check import Check
from prunus.surgery.other_sizes import Size, analysed, proof_sizes
from prunus.surgery.proof_run import Trial, relative_error, trial
from prunus.surgery.recapture import batch_size
from prunus.surgery.reference import reference_overrides
from prunus.surgery.tensors import cut_tensors

Outputs = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof found; ``at`` names the size at which it failed, and is empty for the example inputs."""

    check: Check
    at: str = ""


def prove(
    model: nn.Module,
    small: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    seed: int = 0,
    whole: bool = True,
) -> Proof:
    """Compare a cut model with the masked original at three batch sizes, and stop where they differ.

    Args:
        model: the original.
        small: the cut model, with the user's own forwards.
        coupling: the analysis of the original.
        plan: what went.
        example_inputs: of the original.
        seed: of the noise.
        whole: run the example inputs as they are; without, smaller ones may stand for them.
    """
    equal = wrong_tensor(small, coupling.graph, cut_tensors(unwrap(model), coupling, plan)) is None
    for dtype in (torch.float64, torch.float32):
        try:
            it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=dtype)
            work = _Work.of(unwrap(model), it, example_inputs, equal=equal)
            return work.proof(small, example_inputs, whole=whole)
        except RuntimeError as error:
            if dtype is torch.float32 or not needs_float32(error):
                raise
    raise AssertionError


def needs_float32(error: Exception) -> bool:
    """Whether an op knows no float64."""
    return "not implemented for 'Double'" in str(error)


def inner_error(it: Trial, outputs: Outputs) -> float:
    """Return how far the values inside the edited graph are off, where the outputs are too coarse to tell."""
    if any(t.is_floating_point() or t.is_complex() for t in outputs):
        return 0.0
    parted = first_divergence(it)
    return 0.0 if parted is None else parted.error


@dataclass(frozen=True, slots=True)
class _There:
    """The trial at one size; ``alone``: the original, once masked, is the reference itself, else its program is."""

    it: Trial
    size: Size
    original: nn.Module
    alone: bool

    def outputs(self) -> Outputs:
        """Return what the original gives there: uncut, of one sample where that will do; masked once the trial is."""
        if self.alone:
            return _of_original(self.it, self.original)
        if self.it.zeroed:
            return self.it.masked()
        try:
            one = self.size.of_batch(1) if self.size.batches else self.size
            return _of_original(self.it.at(self.it.coupling, one.inputs), self.original)
        except Exception:
            return self.it.uncut()

    def zeroed(self, it: Trial) -> _There:
        """Return the same of a masked trial."""
        return replace(self, it=it.at(self.it.coupling, self.size.inputs))


def _of_original(it: Trial, original: nn.Module) -> Outputs:
    return it.kept_outputs(it.cut(original))


@dataclass(slots=True)
class _Work:
    """A proof at work.

    Attributes:
        model: the original.
        it: the trial on the example inputs, masked as soon as the uncut outputs are known.
        original: a copy of the original around the very tensors of the trial.
        alone: the original is the reference itself, once it is masked.
        check: what was found so far.
        own: the batch size of the example.
        batches: the batch sizes at which something was found.
    """

    model: nn.Module
    it: Trial
    original: nn.Module
    alone: bool
    check: Check
    own: int
    batches: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, model: nn.Module, it: Trial, example_inputs: Any, *, equal: bool) -> _Work:
        """Return a proof that has not begun."""
        check, own = Check(0.0, 0.0, equal, it.dtype, on_example=False), batch_size(pytree.tree_leaves(example_inputs))
        return cls(model, it, it.original(model), _is_its_own_reference(it), check, own)

    def proof(self, small: nn.Module, example_inputs: Any, *, whole: bool) -> Proof:
        """Run the sizes one after the other."""
        twin: nn.Module | None = None
        for choices in proof_sizes(example_inputs, self.batches, whole=whole):
            found = self._first_that_runs(choices)
            if found is None:
                continue
            there, outputs = found
            if twin is None:
                self.it = self.it.zero_()
                uncut, there = outputs, there.zeroed(self.it)
                outputs = there.outputs()
                change, inner = relative_error(uncut, _first_of(outputs, uncut)), inner_error(self.it, outputs)
                self.check, twin = replace(self.check, change=change, error=inner), self.it.twin(small)
            for batch in there.size.batches or (0,):
                self._compare(there, batch, outputs, twin)
                if not self.check.error <= self.check.tolerance:
                    return Proof(self.check, there.size.described(batch))
        return Proof(self.check)

    def _first_that_runs(self, choices: list[Size]) -> tuple[_There, Outputs] | None:
        """Return the first size that the original takes, and what it gives there."""
        for size in choices:
            if size.batches and self.batches >= {*size.batches}:
                continue
            for there in self._ways(size, alone=self.alone):
                try:
                    return there, there.outputs()
                except Exception as error:
                    if needs_float32(error) or not (size.batches or there.alone):
                        raise
        return None

    def _ways(self, size: Size, *, alone: bool) -> Iterator[_There]:
        """Yield what may be the reference at a size: the original itself where it can be, and its program there."""
        if alone:
            yield _There(self.it.at(self.it.coupling, size.inputs), size, self.original, True)
        own = self.it.coupling
        coupling = analysed(self.model, own, self.it.plan, size.inputs) if size.batches else own
        if coupling is not None:
            yield _There(self.it.at(coupling, size.inputs), size, self.original, False)

    def _compare(self, there: _There, batch: int, masked: Outputs, twin: nn.Module) -> None:
        """Run the cut model on so many samples, and compare it with the same samples of what the original gave."""
        size = there.size.of_batch(batch) if batch != max(there.size.batches, default=0) else there.size
        few = size is not there.size
        error, told = _error(there.it.at(there.it.coupling, size.inputs), twin, masked, few=few)
        if not error <= self.check.tolerance and (there.alone or few):
            # The original may average over what goes there, or over the samples: its program at this size decides.
            again = next(self._ways(size, alone=False), None)
            if again is not None:
                error, told = _error(again.it, twin, again.outputs())
        self.check = replace(
            self.check,
            error=max(error, self.check.error),
            failure=told,
            sizes=(*self.check.sizes, *([size.described(batch)] if batch else [])),
            on_example=self.check.on_example or not batch or (not size.name and batch == self.own),
        )
        self.batches.add(batch)


def _error(it: Trial, twin: nn.Module, masked: Outputs, *, few: bool = False) -> tuple[float, str]:
    """Return how far a cut model is off, and what it raised; ``few``: the reference is of more samples."""
    try:
        got = it.cut(twin)
    except Exception as failure:
        return float("inf"), one_line(failure)
    return relative_error(got, _first_of(masked, got) if few else masked), ""


def _first_of(outputs: Outputs, few: Outputs) -> Outputs:
    """Return, of outputs of more samples, the first: along the first dim in which each is longer, and only there."""
    if len(outputs) != len(few):
        return outputs
    return [_narrowed(a, b.shape) for a, b in zip(outputs, few, strict=True)]


def _narrowed(more: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    longer = [d for d, (a, b) in enumerate(zip(more.shape, shape, strict=False)) if a > b]
    return more.narrow(longer[0], 0, shape[longer[0]]) if longer and more.dim() == len(shape) else more


def _is_its_own_reference(it: Trial) -> bool:
    """Whether the original, with what goes at zero, computes what its masked program computes: nothing averages."""
    coupling, plan = it.coupling, it.plan
    constants = [e for n in coupling.graph.constants for e in coupling.tensors[n]]
    whole = all(coupling.mask(e, plan.axes).all() for e in (*coupling.ids.values(), *constants))
    return whole and not it.random and not plan.drops and not reference_overrides(coupling, plan)


__all__ = ["Proof", "inner_error", "needs_float32", "prove"]
