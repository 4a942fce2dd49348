"""A cut model as one `.pt2` file: the program of torch.export, with plan and measurement; it runs without a class."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn

from prunus.errors import ModelError
from prunus.exporters.exported_reading import FORMAT, one_line, read_program, silent
from prunus.exporters.parts import Pruned, check_metadata, class_name, example_call, parts
from prunus.exporters.program_archive import ABOUT, add_sums
from prunus.foundation.atomic_files import write_bytes_atomic
from prunus.foundation.version import VERSION
from prunus.graph.capture import capture, preserved, split_inputs
from prunus.graph.recorder import named_tensors
from prunus.plans import PLAN
from prunus.surgery.proving.proof_run import output_tensors, relative_error
from prunus.surgery.record import Surgery
from prunus.surgery.rewriting.edited_program import Program
from prunus.surgery.rewriting.recapture import growth

_TOLERANCE = 1e-6
_BATCH = "dim 0 of the inputs"


def save_program(
    result: Pruned, path: Path | str, *, example_inputs: Any = None, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write the cut model in eval mode as a `.pt2` file; an older file of that name is replaced.

    The batch (dim 0 of every input that shares it) stays free where the cut network follows it. Where torch.export
    refuses the model, the program that prunus captures of it is exported instead. The file is read back and must give
    the model's outputs before it takes its place.

    Args:
        result: what `prunus.prune` returned; the model may have been trained since.
        path: where to.
        example_inputs: one call; by default what the result remembers.
        metadata: anything with a JSON form.

    Raises:
        UsageError: no inputs, or metadata without a JSON form.
        ModelError: neither way can be exported, or what was exported computes something else.
    """
    model, plan, surgery = parts(result)
    check_metadata(metadata)
    inputs = example_call(result, example_inputs, "A .pt2 file")
    exported, source = _exported(model, surgery, inputs)
    exported.example_inputs = None  # torch stores them as a pickle, and loads it as one
    about = {
        "format": FORMAT,
        "prunus": VERSION,
        "torch": torch.__version__,
        "model": class_name(model, surgery),
        "mode": surgery.mode,
        "exported_from": source,
        "before": asdict(plan.before) if plan.before else None,
        "after": asdict(plan.after) if plan.after else None,
        "metadata": dict(metadata or {}),
    }
    buffer = io.BytesIO()
    with silent():
        torch.export.save(exported, buffer, extra_files={PLAN: json.dumps(plan.describe()), ABOUT: json.dumps(about)})
    add_sums(buffer)
    loaded = read_program(buffer, str(path))
    expected, got = _outputs(model, inputs), _outputs(loaded, inputs)
    error = relative_error(got, expected)
    if error > _TOLERANCE:
        raise ModelError(
            f"The exported {about['model']} differs from the cut model: relative error {error:.1e}, allowed "
            f"{_TOLERANCE:.0e}; use prunus.save(result, folder)."
        )
    return write_bytes_atomic(path, buffer.getvalue())


def _exported(model: nn.Module, surgery: Surgery, inputs: Any) -> tuple[Any, str]:
    """Export the model, or else the program that a capture of it gives."""
    follows = not any(reason.startswith(_BATCH) for reason in surgery.static)
    try:
        return _export(model, inputs, follows), "model"
    except Exception as error:  # torch.export fails in as many ways as there are models
        first = error
    try:
        graph = capture(model, inputs)
        tensors = named_tensors(model)
        values = {n: tensors[n].detach() for n in graph.tensors if n in tensors} | dict(graph.constants)
        program = Program(graph, values, {n: t.requires_grad for n, t in tensors.items()}, growth(model, graph, inputs))
        _name_arguments_(program, inputs)
        return _export(program.eval(), inputs, follows), "program"
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be exported by torch.export: {type(first).__name__}: {one_line(first)}; "
            "use prunus.save(result, folder)."
        ) from error


def _name_arguments_(program: nn.Module, inputs: Any) -> None:
    """Give the forward the arguments of this call by name: the exporter knows no free dims behind stars."""
    args, kwargs = split_inputs(inputs)
    forward = program.forward

    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    parameters = [Parameter(f"input_{i}", Parameter.POSITIONAL_ONLY) for i in range(len(args))]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY) for name in kwargs]
    named.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    program.forward = named


def _export(model: nn.Module, inputs: Any, follows: bool) -> Any:
    args, kwargs = split_inputs(inputs)
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach(), (args, kwargs))
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.dim()]
    size = tensors[0].shape[0] if tensors else 0
    if size == 1 and follows:  # export takes a size of one for a constant
        args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: _doubled(t, size), (args, kwargs))
        size = 2
    free: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in pytree.tree_leaves((args, kwargs)):
        if follows and isinstance(tensor, torch.Tensor) and tensor.dim() and tensor.shape[0] == size > 1:
            free[tensor] = {0: torch.export.Dim.AUTO}  # the exporter fixes what cannot vary
    with preserved(model), torch.no_grad(), silent():
        return torch.export.export(model, args, kwargs, dynamic_shapes=free, strict=False)


def _doubled(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == size else tensor


def _outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), split_inputs(inputs))
    with preserved(model), torch.no_grad():
        return output_tensors(model(*args, **kwargs))
