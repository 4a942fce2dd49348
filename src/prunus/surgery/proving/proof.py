"""The proof of a cut that keeps the user's forwards: three batch sizes, on the smallest inputs that the model takes."""

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
from prunus.surgery.proving.bisect_difference import first_divergence, one_line, wrong_tensor
from prunus.surgery.proving.check import Check
from prunus.surgery.proving.other_sizes import Size, analysed, proof_sizes
from prunus.surgery.proving.proof_run import Trial, relative_error, trial
from prunus.surgery.proving.reference import reference_overrides
from prunus.surgery.rewriting.recapture import batch_size
from prunus.surgery.tensors import cut_tensors

Outputs = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a proof; ``at`` names the size at which it failed, and is empty for the example inputs."""

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
    """Compare a cut model with the masked original at three batch sizes, and stop at the first difference.

    Args:
        model: the original.
        small: the cut model, with the user's own forwards.
        coupling: the analysis of the original.
        plan: the plan of the cut.
        example_inputs: inputs of the original.
        seed: seed of the noise.
        whole: run the example inputs as they are; if False, smaller ones may replace them.
    """
    equal = wrong_tensor(small, coupling.graph, cut_tensors(unwrap(model), coupling, plan)) is None
    for dtype in (torch.float64, torch.float32):
        try:
            it = trial(model, coupling, plan, example_inputs, seed=seed, dtype=dtype)
            running = _RunningProof.of(unwrap(model), it, example_inputs, equal=equal)
            return running.proof(small, example_inputs, whole=whole)
        except RuntimeError as error:
            if dtype is torch.float32 or not needs_float32(error):
                raise
    raise AssertionError


def needs_float32(error: Exception) -> bool:
    """Return True if an error says that an op has no float64."""
    return "not implemented for 'Double'" in str(error)


def inner_error(it: Trial, outputs: Outputs) -> float:
    """Return the error of the values inside the edited graph if all outputs are integers, else 0."""
    if any(t.is_floating_point() or t.is_complex() for t in outputs):
        return 0.0
    difference = first_divergence(it)
    return 0.0 if difference is None else difference.error


@dataclass(frozen=True, slots=True)
class _AtSize:
    """The trial at one size of the inputs.

    Attributes:
        it: the trial.
        size: the size.
        original: the copy of the original that holds the trial's tensors.
        alone: the reference is the original itself, with removed slices at zero; otherwise it is its masked program.
    """

    it: Trial
    size: Size
    original: nn.Module
    alone: bool

    def outputs(self) -> Outputs:
        """Return the outputs of the original: masked if the trial is; else uncut, of one sample if that runs."""
        if self.alone:
            return _of_original(self.it, self.original)
        if self.it.zeroed:
            return self.it.masked()
        try:
            one = self.size.of_batch(1) if self.size.batches else self.size
            return _of_original(self.it.at(self.it.coupling, one.inputs), self.original)
        except Exception:
            return self.it.uncut()

    def zeroed(self, it: Trial) -> _AtSize:
        """Return the same size of a masked trial."""
        return replace(self, it=it.at(self.it.coupling, self.size.inputs))


def _of_original(it: Trial, original: nn.Module) -> Outputs:
    return it.kept_outputs(it.cut(original))


@dataclass(slots=True)
class _RunningProof:
    """A proof that runs.

    Attributes:
        model: the original.
        it: the trial on the example inputs, masked as soon as the uncut outputs are known.
        original: a copy of the original that shares the trial's tensors.
        alone: the reference is the original itself, with removed slices at zero.
        check: the result so far.
        own: the batch size of the example.
        batches: the batch sizes that were compared so far.
    """

    model: nn.Module
    it: Trial
    original: nn.Module
    alone: bool
    check: Check
    own: int
    batches: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, model: nn.Module, it: Trial, example_inputs: Any, *, equal: bool) -> _RunningProof:
        """Return a proof that has not started."""
        check, own = Check(0.0, 0.0, equal, it.dtype, on_example=False), batch_size(pytree.tree_leaves(example_inputs))
        return cls(model, it, it.original(model), _is_its_own_reference(it), check, own)

    def proof(self, small: nn.Module, example_inputs: Any, *, whole: bool) -> Proof:
        """Compare both models at one size after the other."""
        twin: nn.Module | None = None
        for choices in proof_sizes(example_inputs, self.batches, whole=whole):
            first = self._first_that_runs(choices)
            if first is None:
                continue
            reference, outputs = first
            if twin is None:
                self.it = self.it.zero_()
                uncut, reference = outputs, reference.zeroed(self.it)
                outputs = reference.outputs()
                change, inner = relative_error(uncut, _first_of(outputs, uncut)), inner_error(self.it, outputs)
                self.check, twin = replace(self.check, change=change, error=inner), self.it.twin(small)
            for batch in reference.size.batches or (0,):
                self._compare(reference, batch, outputs, twin)
                if not self.check.error <= self.check.tolerance:
                    return Proof(self.check, reference.size.described(batch))
        return Proof(self.check)

    def _first_that_runs(self, choices: list[Size]) -> tuple[_AtSize, Outputs] | None:
        """Return the first size that the original takes, and its outputs there."""
        for size in choices:
            if size.batches and self.batches >= {*size.batches}:
                continue
            for reference in self._references(size, alone=self.alone):
                try:
                    return reference, reference.outputs()
                except Exception as error:
                    if needs_float32(error) or not (size.batches or reference.alone):
                        raise
        return None

    def _references(self, size: Size, *, alone: bool) -> Iterator[_AtSize]:
        """Yield the possible references at a size: the original itself if ``alone``, then its program at that size."""
        if alone:
            yield _AtSize(self.it.at(self.it.coupling, size.inputs), size, self.original, True)
        own = self.it.coupling
        coupling = analysed(self.model, own, self.it.plan, size.inputs) if size.batches else own
        if coupling is not None:
            yield _AtSize(self.it.at(coupling, size.inputs), size, self.original, False)

    def _compare(self, reference: _AtSize, batch: int, masked: Outputs, twin: nn.Module) -> None:
        """Run the cut model on the first ``batch`` samples, and compare it with the original's outputs for them."""
        size = reference.size.of_batch(batch) if batch != max(reference.size.batches, default=0) else reference.size
        few = size is not reference.size
        error, failure = _error(reference.it.at(reference.it.coupling, size.inputs), twin, masked, few=few)
        if not error <= self.check.tolerance and (reference.alone or few):
            # The original may average over removed units at this size, or over samples: its program there decides.
            again = next(self._references(size, alone=False), None)
            if again is not None:
                error, failure = _error(again.it, twin, again.outputs())
        self.check = replace(
            self.check,
            error=max(error, self.check.error),
            failure=failure,
            sizes=(*self.check.sizes, *([size.described(batch)] if batch else [])),
            on_example=self.check.on_example or not batch or (not size.name and batch == self.own),
        )
        self.batches.add(batch)


def _error(it: Trial, twin: nn.Module, masked: Outputs, *, few: bool = False) -> tuple[float, str]:
    """Return the error of a cut model, and the failure it raised; ``few``: the reference has more samples."""
    try:
        got = it.cut(twin)
    except Exception as failure:
        return float("inf"), one_line(failure)
    return relative_error(got, _first_of(masked, got) if few else masked), ""


def _first_of(outputs: Outputs, few: Outputs) -> Outputs:
    """Narrow the outputs of more samples to the first ones, along the first dim in which each output is longer."""
    if len(outputs) != len(few):
        return outputs
    return [_narrowed(a, b.shape) for a, b in zip(outputs, few, strict=True)]


def _narrowed(more: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    longer = [d for d, (a, b) in enumerate(zip(more.shape, shape, strict=False)) if a > b]
    return more.narrow(longer[0], 0, shape[longer[0]]) if longer and more.dim() == len(shape) else more


def _is_its_own_reference(it: Trial) -> bool:
    """Return True if the original with removed slices at zero computes the masked program: no op averages over them."""
    coupling, plan = it.coupling, it.plan
    constants = [e for n in coupling.graph.constants for e in coupling.tensors[n]]
    uncut = all(coupling.mask(e, plan.axes).all() for e in (*coupling.ids.values(), *constants))
    return uncut and not it.random and not plan.drops and not reference_overrides(coupling, plan)
