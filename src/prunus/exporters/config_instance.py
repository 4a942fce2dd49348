"""A cut Hugging Face model as a plain instance of its class, with a config that says what it is."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from prunus.errors import ModelError, UsageError
from prunus.exporters.config_build import Builder, Changes, quiet, shapes_of, spelled
from prunus.exporters.config_proof import TOLERANCE, Fold, disagreement, folds, outputs
from prunus.exporters.config_search import ELSE, UntoldError, find_configs
from prunus.exporters.parts import Pruned, parts
from prunus.surgery.keeping.mending import mend_
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting.edited_program import Program


def as_pretrained(result: Pruned, example_inputs: Any = None) -> nn.Module:
    """Return the cut model as a plain instance of its ``transformers`` class, with a config that says what it is.

    The config is found by building: its numbers are changed until the class has exactly the shapes of the cut model,
    and then until it computes the same with noisy tensors in float64. A scale that the class computes from a size that
    was cut is made up for in a projection beside it (√(D′/D) on the queries).

    Args:
        result: what `prunus.prune` returned.
        example_inputs: one call, for the proof; by default what the result remembers.

    Returns:
        A new model in eval mode. Its parameters are copies.

    Raises:
        ModelError: no transformers model, or its config cannot express the cut; says which tensor or computation
            stands in the way.
    """
    model, plan, surgery = parts(result)
    if isinstance(model, Program):
        raise ModelError(f"A whole program has no transformers class any more; cut with mode='hybrid', or {ELSE}")
    builder = Builder(Builder.of(model).kind, dense_config(model, surgery))
    target = shapes_of(model)
    inputs = call_of(result, model, example_inputs)
    least, tried = float("inf"), ""
    for numbers in find_configs(builder, target, {(len(m), int(m.sum())) for m in plan.axes.values()}):
        tried = tried or ", ".join(f"{spelled(p)}={v}" for p, v in numbers.items())
        fresh, error = instance_of(model, builder, numbers, inputs)
        if fresh is not None:
            return fresh
        least = min(least, error)
    raise UntoldError(
        f"The config of {builder.kind.__name__} has numbers for the shapes that were cut ({tried}), but the class "
        f"computes something else from them: relative difference {least:.1e}, allowed {TOLERANCE:.0e}.",
        f"Cut with config_ties=True, or {ELSE}",
    )


def instance_of(model: nn.Module, builder: Builder, numbers: Changes, inputs: Any) -> tuple[nn.Module | None, float]:
    """Build a class from changed numbers of its config and fill it with the tensors of a cut model.

    Args:
        model: the cut model.
        builder: its class and config.
        numbers: changes that give the shapes of the cut model.
        inputs: one call, for the proof.

    Returns:
        The instance, None where it computes something else, and the relative difference.
    """
    with quiet():
        fresh = builder.kind(copy.deepcopy(builder.changed(numbers))).to(next(model.parameters()).device).eval()
    least = float("inf")
    for fold in folds(model, fresh):
        least = min(least, disagreement(model, fresh, inputs, fold))
        if least <= TOLERANCE:
            return _filled(fresh, model, fold), least
    return None, least


def dense_config(model: nn.Module, surgery: Surgery) -> Any:
    """Return the config of a cut model as it was before the cut mended numbers of it."""
    root = nn.Module()
    root.config = copy.deepcopy(model.config)
    mended = [m for m in surgery.mended if not m.path and m.name.startswith("config.")]
    mend_(root, [type(m)(m.path, m.name, m.new, m.old) for m in mended])
    return root.config


def call_of(result: Any, model: nn.Module, given: Any) -> Any:
    """Return one call: what was given, what the result remembers, or the class's own dummy inputs."""
    found = getattr(result, "example_inputs", None) if given is None else given
    if found is not None:
        return found
    found = getattr(model, "dummy_inputs", None)
    try:
        outputs(model, found)
    except Exception as error:  # every model refuses inputs in its own way
        raise UsageError(
            f"The Hugging Face folder of a {type(model).__name__} is proved on one call of it; give example_inputs=..."
        ) from error
    return found


def _filled(fresh: nn.Module, model: nn.Module, fold: Fold) -> nn.Module:
    """Give a fresh model the tensors of the cut one, each in its dtype."""
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value.detach().clone() if name not in fold else value.detach() * fold[name]
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    dtypes = {v.dtype for v in state.values() if v.is_floating_point()}
    if len(dtypes) == 1:
        fresh = fresh.to(next(iter(dtypes)))
    fresh.load_state_dict(state)
    for name, parameter in fresh.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    if getattr(model, "generation_config", None) is not None:
        fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh
