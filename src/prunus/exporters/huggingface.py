"""A cut Hugging Face model as an instance of its own class again, and as a folder that loads without prunus."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import ModelError, UsageError
from prunus.exporters.config_build import Builder, Changes, quiet, shapes_of, spelled
from prunus.exporters.config_proof import TOLERANCE, Fold, disagreement, folds, outputs
from prunus.exporters.config_search import find_configs
from prunus.exporters.parts import Pruned, parts, write_plan
from prunus.files import atomic_dir
from prunus.plans import PLAN
from prunus.surgery.program import Program
from prunus.surgery.trial import relative_error

ELSE = "use prunus.save(result, folder) or a .pt2 file."


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
        ModelError: the config cannot express the cut; says which tensor or computation stands in the way.
    """
    model, plan, _ = parts(result)
    if isinstance(model, Program):
        raise ModelError(f"A whole program has no transformers class any more; cut with mode='hybrid', or {ELSE}")
    builder = Builder.of(model)
    target = shapes_of(model)
    inputs = _inputs(result, model, example_inputs)
    least, tried = float("inf"), ""
    for numbers in find_configs(builder, target, {(len(m), int(m.sum())) for m in plan.axes.values()}):
        tried = tried or ", ".join(f"{spelled(p)}={v}" for p, v in numbers.items())
        with quiet():
            fresh = builder.kind(copy.deepcopy(builder.changed(numbers))).to(next(model.parameters()).device).eval()
        for fold in folds(model, fresh):
            error = disagreement(model, fresh, inputs, fold)
            if error <= TOLERANCE:
                return _filled(fresh, model, fold)
            least = min(least, error)
    raise ModelError(
        f"The config of {builder.kind.__name__} has numbers for the shapes that were cut ({tried}), but the class "
        f"computes something else from them: relative difference {least:.1e}, allowed {TOLERANCE:.0e}. Leave rotary "
        f"widths and scaled embeddings whole (prunus.exporters.config_widths), or {ELSE}"
    )


def save_pretrained(result: Pruned, folder: Path | str, example_inputs: Any = None) -> Path:
    """Write a folder that ``AutoModel….from_pretrained`` loads without prunus; an older one is replaced.

    The folder is loaded once before it takes its place, and must give every tensor to the bit and the cut model's
    outputs. Arguments and errors as in `as_pretrained`; the plan is added as ``plan.json``.
    """
    fresh = as_pretrained(result, example_inputs)
    model, plan, _ = parts(result)
    inputs = _inputs(result, model, example_inputs)
    with atomic_dir(folder, PLAN) as temporary:
        with quiet():
            fresh.save_pretrained(temporary)  # type: ignore[operator]
            loaded = type(fresh).from_pretrained(temporary)  # type: ignore[attr-defined]
        _check(model, fresh, loaded.to(next(model.parameters()).device), inputs)
        write_plan(plan, temporary)
    return Path(folder)


def update_config_(result: Pruned, example_inputs: Any = None) -> dict[str, int]:
    """Set the numbers of the cut model's own config to what the network now is; all of them or none.

    Returns:
        Config field → new number.

    Raises:
        ModelError: as `as_pretrained`, or a forward reads a number that it needs as it was; nothing is changed then.
    """
    model = parts(result)[0]
    fresh = as_pretrained(result, example_inputs)
    inputs = _inputs(result, model, example_inputs)
    before = outputs(model, inputs)
    old, new = (Builder.of(m).numbers(least=1) for m in (model, fresh))
    changes = {p: v for p, v in new.items() if old.get(p) != v}
    _assign_(model.config, changes)
    if not _same(outputs(model, inputs), before):
        _assign_(model.config, {p: old[p] for p in changes})
        raise ModelError(
            f"A forward of {type(fresh).__name__} reads a number of its config; it stays as it was. {ELSE}"
        )
    return {spelled(p): v for p, v in changes.items()}


def _inputs(result: Any, model: nn.Module, given: Any) -> Any:
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


def _check(model: nn.Module, fresh: nn.Module, loaded: nn.Module, inputs: Any) -> None:
    """Insist that what the folder gives is what was meant."""
    own, back = fresh.state_dict(), loaded.state_dict()
    name = next((n for n in {**own, **back} if n not in own or n not in back or not torch.equal(own[n], back[n])), None)
    if name is not None:
        raise ModelError(f"{type(fresh).__name__} does not load {name!r} as it was saved; {ELSE}")
    if not _same(outputs(loaded, inputs), outputs(model, inputs)):
        raise ModelError(f"{type(fresh).__name__} loaded from the folder computes something else; {ELSE}")


def _same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    eps = max((torch.finfo(t.dtype).eps for t in expected if t.is_floating_point()), default=0.0)
    return relative_error(got, expected) <= 100 * eps


def _assign_(config: Any, changes: Changes) -> None:
    for path, value in changes.items():
        *above, last = path
        place = config
        for step in above:
            place = place[step] if isinstance(step, int) else getattr(place, step)
        if isinstance(last, int):
            place[last] = value
        else:
            setattr(place, last, value)
