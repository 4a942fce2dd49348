"""Remove units and branches: slice tensors, mend the integers of torch.nn modules, rewrite forwards that need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from prunus.errors import CaptureError, OptionError, PlanError
from prunus.foundation.as_found import in_eval_mode
from prunus.graph.capture import unwrap
from prunus.graph.coupling import Coupling
from prunus.graph.ir import Graph
from prunus.graph.recorder import named_tensors
from prunus.plans import Plan, fingerprint
from prunus.surgery.attributes import mend_attributes_, mend_convolutions_
from prunus.surgery.keeping.cut_keeping import keep_forwards
from prunus.surgery.keeping.own_forward import own_forward
from prunus.surgery.record import Surgery, merge_changes
from prunus.surgery.rewriting.edited_program import Program
from prunus.surgery.rewriting.module_calls import stale_candidates
from prunus.surgery.rewriting.recapture import FurtherCaptures
from prunus.surgery.rewriting.rewrite_graph import rewrite
from prunus.surgery.rewriting.rewrite_search import Search
from prunus.surgery.rewriting.splice import Splice
from prunus.surgery.tensors import copy_with, cut_tensors
from prunus.surgery.token_ids import cut_inputs
from prunus.surgery.unused_modules import prune_modules_

MODES = ("hybrid", "module", "graph")
FORWARDS = ("keep", "rewrite")
# The last round writes the whole program out in the top level; even then its class survives.
_ROUNDS = 16


def cut(model: nn.Module, coupling: Coupling, plan: Plan, example_inputs: Any, *, mode: str = "hybrid") -> nn.Module:
    """Return a smaller model; the argument is untouched. `cut_with_record` also returns a record of the cut."""
    return cut_with_record(model, coupling, plan, example_inputs, mode=mode)[0]


def cut_with_record(
    model: nn.Module,
    coupling: Coupling,
    plan: Plan,
    example_inputs: Any,
    *,
    mode: str = "hybrid",
    forward: str | None = None,
) -> tuple[nn.Module, Surgery]:
    """Cut a model and return it with a record: the mended integers and the rewritten forwards.

    Args:
        model: the model that ``coupling`` was made from; untouched.
        coupling: its analysis.
        plan: kept units, dropped branches and weight masks. Masks are applied before tensors are sliced.
        example_inputs: inputs for a second capture, which proves that the cut model runs the edited graph.
        mode: ``module`` keeps the user's classes and forwards throughout; ``graph`` returns the edited program as one
            module; ``hybrid`` keeps the user's classes and rewrites only the forwards that hold a stale size.
        forward: ``keep`` leaves every forward as the user wrote it and mends the numbers that modules hold; ``rewrite``
            rewrites forwards that hold a stale size. By default, the mode that ``coupling`` was made for
            (`OwnForward.on`).

    Raises:
        PlanError: the plan belongs to another model, or empties something that is needed.
        CaptureError: ``mode="module"`` and the user's code holds a size that the cut makes stale.
    """
    if mode not in MODES:
        raise OptionError(f"cut mode {mode!r} is unknown; allowed: {', '.join(MODES)}.")
    model = unwrap(model)
    check_fingerprint(plan, coupling.graph)
    if forward not in (None, *FORWARDS):
        raise OptionError(f"forward is {forward!r}; allowed: {', '.join(FORWARDS)}.")
    keeps = coupling.forward is not None if forward is None else forward == "keep"
    own = coupling.forward
    if keeps and mode == "hybrid" and own is None:
        own = own_forward(model, coupling, example_inputs, head_dims="free")
        coupling = coupling.followed(own)
    edited = rewrite(coupling, plan.axes, plan.drops)
    values = cut_tensors(model, coupling, plan)
    if keeps and mode == "hybrid" and own is not None:
        args, kwargs = cut_inputs(coupling, plan.axes, example_inputs)
        return keep_forwards(model, coupling, plan, edited, values, args or kwargs, own)
    if mode != "graph":
        args, kwargs = cut_inputs(coupling, plan.axes, example_inputs)
        result = _keep_classes(model, coupling.graph, edited, values, (example_inputs, args or kwargs), mode)
        if result is not None:
            return result
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
    model: nn.Module,
    graph: Graph,
    edited: Graph,
    values: Mapping[str, torch.Tensor],
    inputs: tuple[Any, Any],
    mode: str,
) -> tuple[nn.Module, Surgery] | None:
    """Rewrite as few forwards as possible, until a capture equals the edited graph; None if no round gets there.

    ``inputs`` are example inputs of the original and of the cut model, in which ids have other numbers.
    """
    small = copy_with(model, graph, values)
    with _buffers_unchanged(small):
        changes = merge_changes(mend_attributes_(small, graph, edited), mend_convolutions_(small, edited))
    maybe, sure = stale_candidates(graph, edited)
    captures = FurtherCaptures(model, graph, inputs[0])
    search = Search(small, edited, values, inputs[1], Splice(edited, set(sure)), maybe)
    paths: tuple[str, ...] = ()
    for left in reversed(range(_ROUNDS)):
        if search.splice.stale:
            if mode == "module":
                raise _stale_error(model, edited, search.splice)
            paths = search.splice_(captures)
        if search.settled():
            removed = prune_modules_(small, search.splice, graph) if paths else ()
            return small, Surgery.of(mode if paths else "module", changes, paths, search.splice, search.grown, removed)
        if left == 1:
            search.splice.take_all()
    return None


@contextlib.contextmanager
def _buffers_unchanged(model: nn.Module) -> Iterator[None]:
    """Keep parametrisations from updating their buffers, as reading a spectral-normed weight does in training mode."""
    with in_eval_mode(model), torch.no_grad():
        yield


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
    captures, calls = FurtherCaptures(model, graph, example_inputs), range(len(edited.calls))
    training = captures.training({c.path for c in edited.calls})
    grown, edited = training.grown(captures.growth(), calls).opened(training.applied(edited, calls))
    program = Program(edited, values, trainable, grown)
    modes = {path: m.training for path, m in model.named_modules(remove_duplicate=False)}
    for path, module in program.named_modules(remove_duplicate=False):
        module.training = modes.get(path, model.training)
    return program, Surgery.whole(edited, grown)
