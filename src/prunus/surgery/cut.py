"""Remove units and branches: slice tensors, mend the integers of torch.nn modules, rewrite forwards where needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError, OptionError, PlanError
from prunus.graph.capture import capture, unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan, fingerprint
from prunus.surgery.attributes import mend_attributes_, mend_convolutions_
from prunus.surgery.differ import Differ
from prunus.surgery.dynamic import Growth, growth
from prunus.surgery.literals import rewrite
from prunus.surgery.program import Program
from prunus.surgery.record import Surgery, merge_changes
from prunus.surgery.splice import Splice, prune_modules_, splice_
from prunus.surgery.stale import stale_candidates
from prunus.surgery.tensors import copy_with, cut_tensors

MODES = ("hybrid", "module", "graph")
_ROUNDS = 40


def cut(model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, mode: str = "hybrid") -> nn.Module:
    """Return a smaller model; the argument is untouched. See `operate`, which also returns how it was done."""
    return operate(model, coupling, plan, example_inputs, mode=mode)[0]


def operate(
    model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, mode: str = "hybrid"
) -> tuple[nn.Module, Surgery]:
    """Cut a model and tell how: which integers were mended, which forwards were rewritten.

    Args:
        model: the model that ``coupling`` was made from; untouched.
        coupling: its analysis.
        plan: what goes. Weight masks are applied to the tensors before they are sliced.
        example_inputs: used to prove by a second capture that the cut model runs the edited graph.
        mode: ``module`` keeps the user's classes and forwards throughout; ``graph`` returns the edited program as one
            module; ``hybrid`` keeps the user's classes and rewrites only the forwards that hold a stale size.

    Raises:
        PlanError: the plan belongs to another model, or empties something that is needed.
        CaptureError: ``mode="module"`` and the user's code holds a size that the cut makes stale.
    """
    if mode not in MODES:
        raise OptionError(f"cut mode {mode!r} is unknown; allowed: {', '.join(MODES)}.")
    model = unwrap(model)
    check_fingerprint(plan, coupling.graph)
    edited = rewrite(coupling, plan.axes, plan.drops)
    values = cut_tensors(model, coupling, plan)
    if mode != "graph":
        found = _keep_classes(model, coupling.graph, edited, values, example_inputs, mode)
        if found is not None:
            return found
    return _whole_program(model, coupling.graph, edited, values, example_inputs)


def check_fingerprint(plan: Plan, graph: Graph) -> None:
    """Refuse a plan that was made for another model."""
    own = fingerprint(graph)
    if plan.fingerprint != own:
        raise PlanError(
            f"The plan was made for a model with fingerprint {plan.fingerprint}; this one has {own}. "
            "Plan again for this model."
        )


def _keep_classes(
    model: nn.Module, graph: Graph, edited: Graph, values: Mapping[str, torch.Tensor], example_inputs: Any, mode: str
) -> tuple[nn.Module, Surgery] | None:
    """Splice as few modules as a repeated capture proves to be enough; None if that does not lead there."""
    small = copy_with(model, graph, values)
    with _still(small):
        changes = merge_changes(mend_attributes_(small, graph, edited), mend_convolutions_(small, edited))
    maybe, sure = stale_candidates(graph, edited)
    splice = Splice(edited, set(sure))
    grown: Growth | None = None
    paths: tuple[str, ...] = ()
    for _ in range(_ROUNDS):
        if splice.stale:
            if mode == "module":
                raise _stale_error(model, edited, splice)
            grown = grown or growth(model, graph, example_inputs)
            try:
                splice.settle()
                paths = splice_(small, splice, values, grown)
            except CaptureError:
                return None
        suspect = _departure(small, edited, values, example_inputs)
        if suspect is None:
            removed = prune_modules_(small, splice) if paths else ()
            return small, Surgery.of(mode if paths else "module", changes, paths, splice, grown, removed)
        chosen = _next_stale(edited, suspect, maybe - splice.stale - splice.inlined)
        if not chosen:
            return None
        splice.stale |= chosen
    return None


@contextlib.contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Keep parametrisations from moving their buffers: reading a spectral-normed weight does in training mode."""
    training = [m for m in model.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for m in training:
            m.training = True


def _departure(small: nn.Module, edited: Graph, values: Mapping[str, torch.Tensor], example_inputs: Any) -> str | None:
    """Return the path of the module in which ``small`` departs from the edited graph, or None."""
    try:
        again = capture(small, example_inputs, method="record" if "fake" in edited.how else "run")
    except CaptureError as error:
        return str(getattr(error.__cause__, "module_path", ""))
    node = Differ(edited, again, values).first()
    return None if node is None else edited.module_of(node)


def _next_stale(edited: Graph, suspect: str, left: set[int]) -> set[int]:
    """Return the candidates of one class: that of the nearest candidate around the suspect, else all that are left."""
    paths = {edited.calls[i].path: edited.calls[i].kind for i in left}
    at = suspect
    while at not in paths:
        if not at:
            return left
        at = at.rpartition(".")[0]
    return {i for i in left if edited.calls[i].kind == paths[at]}


def _stale_error(model: nn.Module, edited: Graph, splice: Splice) -> CaptureError:
    call = edited.calls[min(splice.stale)]
    return CaptureError(
        f"{type(model).__name__} cannot be cut in module mode: {call.path or 'its top level'} ({call.kind}) holds a "
        "size that the cut makes stale. Use mode='hybrid'."
    )


def _whole_program(
    model: nn.Module, graph: Graph, edited: Graph, values: Mapping[str, torch.Tensor], example_inputs: Any
) -> tuple[nn.Module, Surgery]:
    named = named_tensors(model)
    trainable = {n: named[n].requires_grad for n in values if n in named}
    grown = growth(model, graph, example_inputs)
    program = Program(edited, values, trainable, grown)
    program.train(model.training)
    return program, Surgery.whole(edited, grown)
